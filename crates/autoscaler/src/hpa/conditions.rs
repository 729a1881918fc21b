//! The conditions of an autoscaler. Which hold is decided elsewhere.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The target's scale can be read and written.
pub(crate) const ABLE_TO_SCALE: &str = "AbleToScale";
/// Metrics give a number.
pub(crate) const SCALING_ACTIVE: &str = "ScalingActive";
/// The number was not the one that metrics gave.
pub(crate) const SCALING_LIMITED: &str = "ScalingLimited";
/// This autoscaler, and nobody else, made it zero.
pub(crate) const SCALED_TO_ZERO: &str = "ScaledToZero";

/// Conditions in the order in which they first appeared.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    list: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions {
    /// As they were; changes happen `now`.
    pub(crate) fn new(list: Option<Vec<HorizontalPodAutoscalerCondition>>, now: Timestamp) -> Self {
        Self { list: list.unwrap_or_default(), now }
    }

    /// Sets a condition; its transition time moves only with its status.
    pub(crate) fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let index = match self.list.iter().position(|condition| condition.type_ == kind) {
            Some(index) => index,
            None => {
                self.list.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
                self.list.len() - 1
            }
        };
        let condition = &mut self.list[index];
        let status = if holds { "True" } else { "False" };
        if condition.status != status {
            condition.last_transition_time = Some(Time(self.now));
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.into());
    }

    /// As a status carries them.
    pub(crate) fn into_list(self) -> Option<Vec<HorizontalPodAutoscalerCondition>> {
        (!self.list.is_empty()).then_some(self.list)
    }
}

/// The condition's status; none if it is not there.
pub(crate) fn state(list: Option<&[HorizontalPodAutoscalerCondition]>, kind: &str) -> Option<bool> {
    list?.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_and_the_words_at_once() {
        let first = Timestamp::UNIX_EPOCH;
        let mut conditions = Conditions::new(None, first);
        conditions.set(ABLE_TO_SCALE, true, "A", "a");
        conditions.set(SCALING_ACTIVE, false, "B", "b");
        let later = Timestamp::from_second(100).unwrap();
        let mut conditions = Conditions::new(conditions.into_list(), later);
        conditions.set(ABLE_TO_SCALE, true, "C", "c");
        conditions.set(SCALING_ACTIVE, true, "D", "d");
        let list = conditions.into_list().unwrap();
        let told: Vec<_> = list
            .iter()
            .map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap(), c.last_transition_time.clone().unwrap().0))
            .collect();
        assert_eq!(told, [(ABLE_TO_SCALE, "C", first), (SCALING_ACTIVE, "D", later)]);
        assert_eq!(state(Some(&list), SCALING_ACTIVE), Some(true));
        assert_eq!(state(Some(&list), SCALED_TO_ZERO), None);
    }
}

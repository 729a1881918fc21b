//! Resource lists: amounts by resource name (`cpu`, `requests.memory`), as
//! requests, limits and quotas carry them, and their arithmetic. Knows nothing
//! of what an amount is counted against.

pub mod pod;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Written;

/// Amounts by resource name, in order of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts(pub BTreeMap<String, Written>);

impl Amounts {
    /// Reads a `ResourceList`; `null` is an empty one, and an amount that is
    /// no quantity is left out (validation refuses it elsewhere).
    pub fn read(list: &Value) -> Self {
        let entries = list.as_object().into_iter().flatten();
        let parse = |(name, text): (&String, &Value)| Some((name.clone(), text.as_str()?.parse().ok()?));
        Self(entries.filter_map(parse).collect())
    }

    /// As a `ResourceList`, in canonical form.
    pub fn to_value(&self) -> Value {
        let text = |(name, amount): (&String, &Written)| (name.clone(), Value::from(amount.to_string()));
        Value::Object(self.0.iter().map(text).collect::<Map<_, _>>())
    }

    /// The amount of a resource.
    pub fn get(&self, name: &str) -> Option<&Written> {
        self.0.get(name)
    }

    /// Sets an amount.
    pub fn set(&mut self, name: impl Into<String>, amount: Written) {
        self.0.insert(name.into(), amount);
    }

    /// The resources' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds all amounts of another list.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(own) => *own += amount,
                None => self.set(name.as_str(), amount.clone()),
            }
        }
    }

    /// Raises each amount to the other list's where that is greater.
    pub fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get(name) {
                Some(own) if own >= amount => {}
                _ => self.set(name.as_str(), amount.clone()),
            }
        }
    }

    /// What this has more than the other; what it has less is nothing. Names
    /// of either list.
    pub fn growth_from(&self, other: &Self) -> Self {
        let mut grown = Self::default();
        for (name, amount) in &self.0 {
            let more = match other.0.get(name) {
                Some(before) => amount - before,
                None => amount.clone(),
            };
            grown.set(name.as_str(), if more.signum() < 0 { Written::ZERO } else { more });
        }
        for name in other.0.keys().filter(|name| !self.0.contains_key(*name)) {
            grown.set(name.as_str(), Written::ZERO);
        }
        grown
    }

    /// The amounts of these names alone.
    pub fn masked<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = names.into_iter().filter_map(|name| Some((name.to_owned(), self.0.get(name)?.clone())));
        Self(known.collect())
    }

    /// Without amounts of zero.
    pub fn without_zeros(mut self) -> Self {
        self.0.retain(|_, amount| !amount.is_zero());
        self
    }

    /// Names whose amount is above the other list's, where that has one.
    pub fn above<'a>(&'a self, limits: &'a Self) -> Vec<&'a str> {
        let above = |(name, amount): (&'a String, &'a Written)| {
            limits.0.get(name).is_some_and(|limit| amount > limit).then_some(name.as_str())
        };
        self.0.iter().filter_map(above).collect()
    }

    /// Names whose amount is below zero.
    pub fn negative(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| name.as_str()).collect()
    }

    /// `name=amount` of each, as refusals of a quota list them.
    pub fn listed(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        all.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums_keep_the_form_of_their_first_amount() {
        let mut sum = Amounts::read(&json!({"cpu": "300m", "memory": "1Gi"}));
        sum.add(&Amounts::read(&json!({"cpu": "0.2", "memory": "1024Mi", "pods": "1"})));
        assert_eq!(sum.to_value(), json!({"cpu": "500m", "memory": "2Gi", "pods": "1"}));
        assert_eq!(sum.listed(), "cpu=500m,memory=2Gi,pods=1");
    }

    #[test]
    fn growth_is_never_negative_and_names_what_went() {
        let new = Amounts::read(&json!({"cpu": "1", "memory": "1Gi"}));
        let old = Amounts::read(&json!({"cpu": "2", "pods": "1"}));
        assert_eq!(new.growth_from(&old).to_value(), json!({"cpu": "0", "memory": "1Gi", "pods": "0"}));
        assert_eq!(new.growth_from(&old).without_zeros().to_value(), json!({"memory": "1Gi"}));
    }

    #[test]
    fn only_limited_amounts_can_be_above() {
        let used = Amounts::read(&json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(used.above(&Amounts::read(&json!({"cpu": "900m"}))), ["cpu"]);
        assert!(used.above(&Amounts::read(&json!({"cpu": "1000m", "pods": "0"}))).is_empty());
    }
}

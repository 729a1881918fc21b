//! Numbers that may be a share of another: `3` or `25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share that is no whole number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number, or the share of `total`. None if the text is no share.
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let share = match round {
                Round::Up => -(-product).div_euclid(100),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(share).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_told() {
        let check = |text: &str, total, up, down| {
            let value = IntOrString::String(text.into());
            assert_eq!(scaled(&value, total, Round::Up), up, "{text} of {total}");
            assert_eq!(scaled(&value, total, Round::Down), down, "{text} of {total}");
        };
        check("25%", 10, Some(3), Some(2));
        check("25%", 4, Some(1), Some(1));
        check("100%", 7, Some(7), Some(7));
        check("0%", 7, Some(0), Some(0));
        check("x", 7, None, None);
        assert_eq!(scaled(&IntOrString::Int(3), 7, Round::Up), Some(3));
    }
}

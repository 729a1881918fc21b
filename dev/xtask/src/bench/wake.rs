//! How long a frozen app takes to its first byte: the demo, many times.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::figure::Figure;
use super::lower;
use crate::check::{Failure, output};

/// Wakes measured.
const WAKES: &str = "200";

pub(super) fn measure(binary: &Path) -> Result<Vec<Figure>, Failure> {
    let text = output(Command::new(binary).args(["demo", "-o", "json", "--wakes", WAKES]))?;
    let result: Value = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| event["event"] == "result")
        .ok_or(Failure::Missing { what: "darter demo printed no result".to_owned() })?;
    let number = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
    let n = result["wakes"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    Ok(vec![
        lower("wake.frozen.p50_ms", number("frozenP50Ms"), 1.0, "ms", n),
        lower("wake.frozen.p99_ms", number("frozenP99Ms"), 5.0, "ms", n),
        lower("wake.awake.p50_ms", number("awakeP50Ms"), 1.0, "ms", n),
        lower(
            "wake.cold.p50_ms",
            number("coldP50Ms"),
            100.0,
            "ms",
            result["colds"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        ),
        lower("demo.first_answer_s", number("firstAnswerMs") / 1000.0, 5.0, "s", 1),
    ])
}

//! Tables: the columns that every kind has, and the texts of cells. Which
//! columns a kind has is the kind's.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::object::Meta;
use crate::strategy::Column;

const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE_DESCRIPTION: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

const HEADINGS: &str = include_str!("kinds/columns.txt");

/// The columns of a built-in resource, where they are known.
pub(crate) fn headings(group: &str, plural: &str) -> Option<&'static [Column]> {
    static TABLE: LazyLock<HashMap<(&'static str, &'static str), Vec<Column>>> = LazyLock::new(read_headings);
    let table: &'static HashMap<_, _> = &TABLE;
    table.iter().find(|((g, p), _)| *g == group && *p == plural).map(|(_, columns)| columns.as_slice())
}

fn read_headings() -> HashMap<(&'static str, &'static str), Vec<Column>> {
    let mut table = HashMap::new();
    let mut current = ("", "");
    for line in HEADINGS.lines() {
        if let Some((group, plural)) = line.strip_prefix("resource ").and_then(|rest| rest.split_once(' ')) {
            current = (if group == "-" { "" } else { group }, plural);
        } else if let Some(row) = line.strip_prefix(' ') {
            let parts: Vec<&str> = row.splitn(5, '|').collect();
            let [name, kind, format, priority, description] = parts.as_slice() else { continue };
            let description = match *description {
                "=name" => NAME_DESCRIPTION.to_owned(),
                "=age" => AGE_DESCRIPTION.to_owned(),
                text => text.replace("\\n", "\n").replace("\\\"", "\""),
            };
            table.entry(current).or_insert_with(Vec::new).push(Column {
                name: (*name).to_owned(),
                kind: (*kind).to_owned(),
                format: (*format).to_owned(),
                description,
                priority: priority.parse().unwrap_or(0),
            });
        }
    }
    table
}

/// A column.
pub(crate) fn column(name: &str, kind: &str, priority: i32, description: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: String::new(),
        description: description.to_owned(),
        priority,
    }
}

/// The name column.
pub(crate) fn name() -> Column {
    Column { format: "name".to_owned(), ..column("Name", "string", 0, NAME_DESCRIPTION) }
}

/// The age column.
pub(crate) fn age() -> Column {
    column("Age", "string", 0, AGE_DESCRIPTION)
}

/// Name and creation time: kinds without columns of their own.
pub(crate) fn name_and_age() -> Vec<Column> {
    vec![name(), column("Created At", "date", 0, AGE_DESCRIPTION)]
}

/// Cells of [`name_and_age`].
pub(crate) fn name_and_age_cells(object: &Value, _now: i64) -> Vec<Value> {
    vec![object.name().into(), object.meta("creationTimestamp").clone()]
}

/// Columns as `columnDefinitions`.
pub(crate) fn definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect()
}

/// An object's age as cells show it.
pub(crate) fn age_cell(object: &Value, now: i64) -> Value {
    since(object.meta_text("creationTimestamp"), now).into()
}

/// Time since an instant, short: `5d3h`. `<unknown>` for none.
pub(crate) fn since(stamp: &str, now: i64) -> String {
    match stamp.parse::<jiff::Timestamp>() {
        Ok(then) => human_duration(now - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Seconds as people read them (`HumanDuration`, apimachinery `util/duration`).
pub(crate) fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s / MINUTE % 60, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s / HOUR % 24, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s / DAY % 365, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_upstream_writes_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (8 * 3600 + 60, "8h"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected);
        }
    }
}

//! The check of the health document, whose names dashboards read. It is a pure function.

use serde_json::Value;
use session_layer::Timestamp;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Time,
    Flag,
    Count,
    Number,
    Texts,
}

use Type::{Count, Flag, Number, Text, Texts, Time};

/// The fields with their types. The flag marks fields that are `null` without Redis.
const FIELDS: [(&str, Type, bool); 24] = [
    ("/status", Text, false),
    ("/timestamp", Time, false),
    ("/redis/connected", Flag, false),
    ("/redis/version", Text, true),
    ("/redis/uptime", Count, true),
    ("/redis/usedMemory", Text, true),
    ("/redis/totalKeys", Count, true),
    ("/sessionCache/enabled", Flag, false),
    ("/sessionCache/healthy", Flag, false),
    ("/sessionCache/metrics/hits", Count, false),
    ("/sessionCache/metrics/misses", Count, false),
    ("/sessionCache/metrics/errors", Count, false),
    ("/sessionCache/metrics/total", Count, false),
    ("/sessionCache/metrics/hitRate", Number, false),
    ("/sessionCache/metrics/ttl", Count, false),
    ("/sessionCache/pool/size", Count, false),
    ("/sessionCache/pool/available", Count, false),
    ("/sessionCache/pool/pending", Count, false),
    ("/performance/ping", Number, true),
    ("/performance/set", Number, true),
    ("/performance/get", Number, true),
    ("/errors", Texts, false),
    ("/postgres/connected", Flag, false),
    ("/mode", Text, false),
];

/// The number of checked fields.
pub(super) const FIELD_COUNT: usize = FIELDS.len();

/// The maximum number of errors in a document.
const MAX_ERRORS: usize = 10;

/// Returns the problems of a document, regardless of the servers' state.
pub(super) fn objections(document: &Value) -> Vec<String> {
    let fields = FIELDS.iter().filter_map(|(path, expected, unknown_without_redis)| {
        let name = path.trim_start_matches('/').replace('/', ".");
        match document.pointer(path) {
            None => Some(format!("`{name}` is missing")),
            Some(Value::Null) if *unknown_without_redis => None,
            Some(value) if expected.fits(value) => None,
            Some(value) => Some(format!("`{name}` is {value}, but must be a {}", expected.name())),
        }
    });
    fields.chain(contradictions(document)).collect()
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        match self {
            Text => value.is_string(),
            Time => value
                .as_str()
                .is_some_and(|text| text.ends_with('Z') && text.parse::<Timestamp>().is_ok()),
            Flag => value.is_boolean(),
            Count => value.is_u64(),
            Number => value.as_f64().is_some_and(|number| number >= 0.0),
            Texts => value.as_array().is_some_and(|texts| {
                texts.len() <= MAX_ERRORS && texts.iter().all(Value::is_string)
            }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Text => "string",
            Time => "time in UTC (RFC 3339)",
            Flag => "boolean",
            Count => "whole number",
            Number => "number",
            Texts => "list of at most 10 strings",
        }
    }
}

/// Returns contradictions between fields.
fn contradictions(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let metrics = &document["sessionCache"]["metrics"];
    let count = |name: &str| metrics[name].as_u64().unwrap_or_default();
    let (hits, total) = (count("hits"), count("total"));
    let sum = hits + count("misses") + count("errors");
    if total != sum {
        found.push(format!("`total` is {total}, but hits, misses and errors add up to {sum}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    let rate = if total == 0 { 0.0 } else { hits as f64 * 100.0 / total as f64 };
    let reported = metrics["hitRate"].as_f64().unwrap_or_default();
    if (reported - rate).abs() > 0.1 {
        found.push(format!("`hitRate` is {reported}, but {hits} hits of {total} are {rate:.1} %"));
    }
    let pool = &document["sessionCache"]["pool"];
    if pool["available"].as_u64() > pool["size"].as_u64() {
        found.push(format!("more connections are available than exist: {pool}"));
    }
    found
}

/// Returns the contradictions with a reachable Redis.
pub(super) fn not_up(document: &Value) -> Vec<String> {
    let expected = [("/redis/connected", true.into()), ("/sessionCache/healthy", true.into())];
    let mut found = differences(document, &expected);
    for name in ["ping", "set", "get"] {
        if !document["performance"][name].is_number() {
            found.push(format!("`performance.{name}` is {}", document["performance"][name]));
        }
    }
    found
}

/// Returns the contradictions with an unreachable Redis.
pub(super) fn not_down(document: &Value) -> Vec<String> {
    let expected = [
        ("/status", "unhealthy".into()),
        ("/redis/connected", false.into()),
        ("/sessionCache/healthy", false.into()),
        ("/sessionCache/pool/available", 0.into()),
        ("/performance/ping", Value::Null),
        ("/performance/set", Value::Null),
        ("/performance/get", Value::Null),
    ];
    let mut found = differences(document, &expected);
    if document["errors"].as_array().is_none_or(Vec::is_empty) {
        found.push("`errors` is empty".to_owned());
    }
    found
}

fn differences(document: &Value, expected: &[(&str, Value)]) -> Vec<String> {
    let differs = |(path, expected): &(&str, Value)| {
        let seen = document.pointer(path).unwrap_or(&Value::Null);
        (seen != expected).then(|| format!("`{}` is {seen}", path[1..].replace('/', ".")))
    };
    expected.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the contract's example.
    fn healthy() -> Value {
        json!({"status":"healthy","timestamp":"2026-11-22T12:00:00Z",
            "redis":{"connected":true,"version":"7.0.15","uptime":123_456,"usedMemory":"1.2M",
                "totalKeys":42,"server":"redis"},
            "sessionCache":{"enabled":true,"healthy":true,
                "metrics":{"hits":850,"misses":150,"errors":0,"total":1000,"hitRate":85.0,
                    "ttl":300},
                "pool":{"size":10,"available":8,"pending":0}},
            "performance":{"ping":0.2,"set":0.3,"get":0.2},"errors":[],
            "postgres":{"connected":true},"mode":"on"})
    }

    fn down() -> Value {
        let mut document = healthy();
        document["status"] = json!("unhealthy");
        document["redis"] = json!({"connected":false,"version":null,"uptime":null,
            "usedMemory":null,"totalKeys":null,"server":null});
        document["sessionCache"]["healthy"] = json!(false);
        document["sessionCache"]["pool"]["available"] = json!(0);
        document["performance"] = json!({"ping":null,"set":null,"get":null});
        document["errors"] = json!(["session cache: gone"]);
        document
    }

    #[test]
    fn documents_of_the_contract_have_no_problem() {
        for document in [healthy(), down()] {
            assert_eq!(objections(&document), [""; 0]);
        }
        assert_eq!(not_up(&healthy()), [""; 0]);
        assert_eq!(not_down(&down()), [""; 0]);
        assert!(!not_up(&down()).is_empty() && !not_down(&healthy()).is_empty());
    }

    #[test]
    fn missing_field_or_wrong_type_is_a_problem() {
        for (path, expected, unknown) in FIELDS {
            let name = path[1..].replace('/', ".");
            let (parent, last) = path.rsplit_once('/').unwrap();
            let mut without = healthy();
            let parent = without.pointer_mut(parent).unwrap();
            parent.as_object_mut().unwrap().remove(last);
            let found = objections(&without).join(", ");
            assert!(found.contains(&format!("`{name}` is missing")), "{found}");

            let mut wrong = healthy();
            *wrong.pointer_mut(path).unwrap() = json!({});
            let found = objections(&wrong).join(", ");
            assert!(found.contains(&format!("`{name}` is {{}}")), "{expected:?} {found}");

            let mut null = healthy();
            *null.pointer_mut(path).unwrap() = Value::Null;
            assert_eq!(objections(&null).is_empty(), unknown, "{path}");
        }
    }

    #[test]
    fn contradicting_fields_are_a_problem() {
        for (path, value, expected) in [
            ("/sessionCache/metrics/total", json!(999), "add up to 1000"),
            ("/sessionCache/metrics/hitRate", json!(0.85), "85.0 %"),
            ("/sessionCache/pool/available", json!(11), "more connections"),
            ("/timestamp", json!("2026-11-22 12:00"), "a time in UTC"),
            ("/errors", json!([1]), "a list"),
        ] {
            let mut document = healthy();
            *document.pointer_mut(path).unwrap() = value;
            let found = objections(&document).join(", ");
            assert!(found.contains(expected), "{path}: {found}");
        }
    }

    #[test]
    fn redis_state_must_match_every_field_of_the_document() {
        let changed = |mut document: Value, path: &str, value: Value| {
            *document.pointer_mut(path).unwrap() = value;
            document
        };
        for (path, value) in [
            ("/redis/connected", json!(true)),
            ("/sessionCache/healthy", json!(true)),
            ("/status", json!("degraded")),
            ("/performance/get", json!(0.1)),
            ("/sessionCache/pool/available", json!(1)),
            ("/errors", json!([])),
        ] {
            assert_eq!(not_down(&changed(down(), path, value)).len(), 1, "{path}");
        }
        for (path, value) in
            [("/redis/connected", json!(false)), ("/sessionCache/healthy", json!(false))]
        {
            assert_eq!(not_up(&changed(healthy(), path, value)).len(), 1, "{path}");
        }
    }
}

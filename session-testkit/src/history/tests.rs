use super::*;
use crate::subject::Seen;

const HEADER: &str = r#"{"header":{"version":2,"seed":7,"nodes":2,"parameters":{"d_ms":1500}}}"#;
const CREATE: &str = concat!(
    r#"{"op":{"node":0,"call":1,"ret":2,"#,
    r#""do":{"create":{"session":1,"user":"u","data":"d","answer":"created"}}}}"#
);

fn read(lines: &[&str]) -> Result<History, HistoryError> {
    History::read(lines.join("\n").as_bytes())
}

#[test]
fn written_history_reads_back_equal() {
    let lines = [
        HEADER,
        CREATE,
        concat!(
            r#"{"op":{"node":1,"call":3,"ret":4,"#,
            r#""do":{"validate":{"session":1,"answer":{"valid":{"user":"u","data":"d"}}}}}}"#
        ),
        concat!(
            r#"{"op":{"node":1,"call":3,"ret":9,"#,
            r#""do":{"rotate":{"session":1,"new_token":1,"grace_ms":5,"answer":"propagated"}}}}"#
        ),
        r#"{"op":{"node":0,"call":4,"dropped":6,"do":{"revoke":{"session":1,"token":1}}}}"#,
        concat!(
            r#"{"op":{"node":0,"call":4,"ret":6,"#,
            r#""do":{"update":{"session":1,"data":"e","#,
            r#""answer":{"committed":{"within_ms":2000,"at_most_ms":302000}}}}}}"#
        ),
        concat!(
            r#"{"op":{"node":0,"call":4,"ret":6,"#,
            r#""do":{"revoke_all":{"user":"u","answer":{"refused":"no"}}}}}"#
        ),
        r#"{"op":{"node":0,"call":4,"ret":6,"do":{"validate_random":{"answer":"invalid"}}}}"#,
        concat!(
            r#"{"fault":{"name":"redis.kill","at":1,"until":5,"nodes":[1],"#,
            r#""no_redis":true,"touched":{"connections":2,"bytes":9},"around":{"#,
            r#""hits":1,"near_hits":2,"misses":3,"fills":4,"touches":5,"journal_reads":6}}}"#
        ),
        r#"{"scan":{"at":9,"entries":3,"stale":[1]}}"#,
        r#"{"in_flight":{"at":3,"node":0,"reads":4}}"#,
        r#"{"sample":{"at":3,"node":0,"of":"tasks","value":4}}"#,
        r#"{"search":{"at":3,"place":"redis_dump","bytes":100,"found":[]}}"#,
        r#"{"end":{"at":10,"due":7,"sent":7}}"#,
    ];
    let history = read(&lines).unwrap();
    assert_eq!(history.header.parameters.d, Duration::from_millis(1500));
    assert_eq!(history.header.parameters.ttl, Duration::from_secs(300));
    assert_eq!(history.operations.len(), 7);
    assert_eq!(
        history.operations[1].op.seen(),
        Some(&Seen::Valid { user: "u".to_owned(), data: "d".to_owned() })
    );
    let written = history.write(Vec::new()).unwrap();
    assert_eq!(History::read(written.as_slice()).unwrap(), history);
    let text = String::from_utf8(written).unwrap();
    for line in &lines[1..] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn bad_line_is_reported_with_its_number() {
    let op = |rest: &str| format!(r#"{{"op":{{"node":0,"call":5,{rest}}}}}"#);
    let cases = [
        (vec![], "empty"),
        (vec![CREATE], "line 1 of the history: the first line must be"),
        (vec![r#"{"header":{"version":3,"whatever":1}}"#], "line 1 of the history: version 3"),
        (vec![r#"{"header":{"version":0,"whatever":1}}"#], "line 1 of the history: version 0"),
        (
            vec![r#"{"header":{"version":2,"seed":7,"nodes":2,"parameters":{"d":1}}}"#],
            "line 1 of the history: not an entry",
        ),
        (vec![HEADER, "", "nonsense"], "line 3 of the history"),
        (vec![HEADER, CREATE, CREATE], "line 3 of the history: session 1"),
    ];
    for (lines, says) in cases {
        let error = read(&lines).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for (rest, says) in [
        (r#""do":{"validate":{"session":2}}"#, "session 2 is never created"),
        (r#""do":{"validate":{"session":1,"token":3}}"#, "token 3 of session 1"),
        (r#""ret":6,"do":{"validate":{"session":1}}"#, "both `ret` and `answer`"),
        (r#""do":{"validate":{"session":1,"answer":"invalid"}}"#, "both `ret`"),
        (r#""ret":4,"do":{"validate":{"session":1,"answer":"invalid"}}"#, "end is before"),
        (
            r#""ret":6,"dropped":6,"do":{"validate":{"session":1,"answer":"invalid"}}"#,
            "cancelled operation",
        ),
        (r#""do":{"validate":{"session":1}},"droped":6"#, "unknown field `droped`"),
        (
            r#""do":{"rotate":{"session":1,"new_token":0,"grace_ms":0}}"#,
            "token 0 of session 1 is issued a second time",
        ),
    ] {
        let line = op(rest);
        let error = read(&[HEADER, CREATE, &line]).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains(says), "{error}");
    }
    let error = read(&[HEADER, r#"{"in_flight":{"at":3,"node":2,"reads":4}}"#]).unwrap_err();
    assert!(error.to_string().contains("there is no node 2"), "{error}");
}

#[test]
fn version_1_is_read_and_written_as_the_current_one() {
    let old = HEADER.replace(r#""version":2"#, r#""version":1"#);
    let fault = r#"{"fault":{"name":"redis.kill","at":1}}"#;
    let history = read(&[&old, CREATE, fault]).unwrap();
    assert_eq!(history, read(&[HEADER, CREATE, fault]).unwrap());
    let written = String::from_utf8(history.write(Vec::new()).unwrap()).unwrap();
    assert!(written.starts_with(HEADER.split_once("seed").unwrap().0), "{written}");
}

#[test]
fn field_of_version_2_is_an_error_in_version_1() {
    let old = HEADER.replace(r#""version":2"#, r#""version":1"#);
    let around = r#"{"fault":{"name":"redis.kill","at":1,"around":{"hits":3}}}"#;
    assert_eq!(read(&[HEADER, around]).unwrap().faults[0].around.unwrap().hits, 3);
    let error = read(&[&old, around]).unwrap_err().to_string();
    for part in ["line 2", "`around`", "version 2", "version 1"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn header_with_too_many_nodes_is_refused() {
    let of = |nodes: u32| HEADER.replace(r#""nodes":2"#, &format!(r#""nodes":{nodes}"#));
    assert!(read(&[&of(MAX_NODES)]).is_ok());
    for nodes in [MAX_NODES + 1, u32::MAX] {
        let error = read(&[&of(nodes)]).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains(&nodes.to_string()), "{error}");
    }
}

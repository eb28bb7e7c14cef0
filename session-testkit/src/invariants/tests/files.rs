//! The hand-written histories of `histories/`. A file's first line states the expected verdict.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::super::{Invariant, Outcome, Verdict, check};
use crate::history::History;

fn files() -> Vec<(String, History)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("histories");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let file = fs::File::open(&path).unwrap();
            let history = History::read(std::io::BufReader::new(file))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, history)
        })
        .collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

fn expected(name: &str, history: &History) -> (Invariant, Outcome) {
    let expect = history.header.expect.as_deref();
    let (invariant, outcome) = expect
        .and_then(|text| text.split_once(' '))
        .unwrap_or_else(|| panic!("{name}: its first line states no expected verdict"));
    let outcome = match outcome {
        "broken" => Outcome::Broken,
        "holds" => Outcome::Holds,
        other => panic!("{name} expects `{other}`"),
    };
    (invariant.parse().unwrap(), outcome)
}

#[test]
fn each_file_breaks_only_its_stated_invariant() {
    let mut count: BTreeMap<(Invariant, Outcome), usize> = BTreeMap::new();
    for (name, history) in files() {
        let (stated, outcome) = expected(&name, &history);
        *count.entry((stated, outcome)).or_default() += 1;
        let holds = if outcome == Outcome::Holds { "holds-" } else { "" };
        let begins = format!("{}-{holds}", stated.name().to_lowercase().replace('δ', "d"));
        assert!(name.starts_with(&begins), "{name} should begin {begins}");
        assert!(history.header.about.is_some(), "{name} has no description");
        let verdicts = check(&history);
        for (invariant, verdict) in verdicts.iter() {
            if invariant == stated {
                assert_eq!(verdict.outcome(), outcome, "{name}:\n{verdicts}");
            } else {
                assert_ne!(verdict.outcome(), Outcome::Broken, "{name}:\n{verdicts}");
            }
        }
        assert_eq!(verdicts.doubts(), [""; 0], "{name}");
        if let Verdict::Broken { violations, .. } = verdicts.of(stated) {
            for violation in violations {
                assert!(!violation.proof.is_empty(), "{name}: {violation}");
            }
        }
    }
    for invariant in Invariant::ALL {
        assert!(count.get(&(invariant, Outcome::Broken)) >= Some(&3), "{invariant}: broken");
        assert!(count.get(&(invariant, Outcome::Holds)) >= Some(&1), "{invariant}: passing");
    }
}

#[test]
fn violation_prints_the_operations_that_prove_it() {
    let (_, history) =
        files().into_iter().find(|(name, _)| name == "r1-late-fill-resurrects.jsonl").unwrap();
    let verdicts = check(&history);
    let Verdict::Broken { violations, found, .. } = verdicts.of(Invariant::R1) else {
        panic!("{verdicts}");
    };
    assert_eq!(*found, 2);
    assert_eq!(
        violations[0].to_string(),
        "R1: session 1 was Valid after a change that ended it had returned
          0.000 ms  node 0: create of session 1 for ann → created, returned at 4.000 ms
         20.000 ms  node 0: revoke of session 1 → Propagated, returned at 23.000 ms
         60.000 ms  node 1: validate of session 1 → Valid (user ann, data `a`), returned at 61.000 \
         ms"
    );
}

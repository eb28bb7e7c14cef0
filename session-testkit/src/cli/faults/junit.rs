//! The runs as JUnit XML, which CI systems show: a suite for each run, and a case for each promise.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::{
    fault_run::Judged,
    invariants::{Outcome, Verdict},
};

/// Returns the suite of one run.
pub(super) fn suite(name: &str, seed: u64, judged: &Judged) -> TestSuite {
    let mut suite = TestSuite::new(format!("{name}, seed {seed}"));
    for (invariant, verdict) in judged.verdicts.iter() {
        let status = status(verdict, judged.required.contains(&invariant));
        let mut case = TestCase::new(format!("{invariant}: {}", invariant.promise()), status);
        case.set_classname(name);
        suite.add_test_case(case);
    }
    // A run may be broken or prove too little although no promise is broken.
    let kind = match judged.outcome() {
        Outcome::Holds => None,
        Outcome::Broken => Some(NonSuccessKind::Failure),
        Outcome::Inconclusive => Some(NonSuccessKind::Error),
    };
    let status = kind.map_or_else(TestCaseStatus::success, |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        let mut why = judged.doubts();
        why.push(judged.availability.to_string());
        let message = format!("the run is {}", judged.outcome());
        status.set_message(message).set_description(why.join("\n"));
        status
    });
    suite.add_test_case(whole(name, status));
    suite
}

/// Returns the suite of a run that could not run.
pub(super) fn failed_suite(name: &str, seed: u64, why: &str) -> TestSuite {
    let mut suite = TestSuite::new(format!("{name}, seed {seed}"));
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message("could not run").set_description(why);
    suite.add_test_case(whole(name, status));
    suite
}

fn whole(name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new("the run as a whole", status);
    case.set_classname(name);
    case
}

fn status(verdict: &Verdict, is_required: bool) -> TestCaseStatus {
    let mut status = match verdict {
        Verdict::Holds { .. } => return TestCaseStatus::success(),
        Verdict::Broken { violations, .. } => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let proofs: Vec<_> = violations.iter().map(ToString::to_string).collect();
            status.set_description(proofs.join("\n\n"));
            status
        }
        Verdict::Inconclusive { .. } if is_required => {
            TestCaseStatus::non_success(NonSuccessKind::Error)
        }
        Verdict::Inconclusive { .. } => TestCaseStatus::skipped(),
    };
    status.set_message(verdict.to_string());
    status
}

/// Returns the document.
pub(super) fn document(suites: &[TestSuite]) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("session-testkit faults");
    report.add_test_suites(suites.iter().cloned());
    report.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_promise_is_a_failure_and_a_required_doubt_an_error() {
        let holds = Verdict::Holds { examined: 1, of: "cases" };
        let broken = Verdict::Broken { examined: 1, of: "<cases>", found: 1, violations: vec![] };
        let open =
            Verdict::Inconclusive { examined: 0, of: "cases", reasons: vec!["too few".to_owned()] };
        let mut suite = TestSuite::new("run");
        for (name, status) in [
            ("holds", status(&holds, true)),
            ("broken", status(&broken, false)),
            ("required", status(&open, true)),
            ("other", status(&open, false)),
        ] {
            suite.add_test_case(TestCase::new(name, status));
        }
        let text = document(&[suite]).unwrap();
        for part in [
            r#"tests="4""#,
            r#"failures="1""#,
            r#"errors="1""#,
            r#"<failure message="BROKEN 1 times (1 &lt;cases&gt;)""#,
            r#"<error message="not exercised: too few""#,
            r#"<skipped message="not exercised: too few""#,
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}

use session_layer::store::{Change, Creation, Target};

use super::*;

fn create(postgres: &mut Postgres, token: &str) -> Session {
    let new = session_layer::NewSession::new("ann").check().unwrap();
    let wish = Wish::Create(TokenDigest::of(token), new);
    match run(postgres, wish) {
        Outcome::Creation(Creation::Created(session)) => session,
        other => panic!("{other:?}"),
    }
}

fn run(postgres: &mut Postgres, wish: Wish) -> Outcome {
    let mut transaction = Transaction::new(wish);
    for _ in 0..4 {
        if let Some(outcome) = postgres.go_on(&mut transaction, 0) {
            return outcome.unwrap();
        }
    }
    panic!("it waits for ever");
}

#[test]
fn the_journal_gives_a_row_that_commits_late_to_the_reader_of_before() {
    let mut postgres = Postgres::new();
    let sessions = [create(&mut postgres, "a"), create(&mut postgres, "b")];
    let mut early = Transaction::new(Wish::Revoke(Target::Id(sessions[0].id())));
    assert!(
        postgres.go_on(&mut early, 0).is_none(),
        "it has a number, and has not committed"
    );
    run(&mut postgres, Wish::Revoke(Target::Id(sessions[1].id())));
    let first = postgres.journal_since(None, 0).unwrap();
    assert_eq!(first.rows.len(), 1);
    assert!(postgres.go_on(&mut early, 0).is_some());
    assert!(postgres.committed_late);
    let second = postgres.journal_since(Some(first.next), 0).unwrap();
    assert!(
        second
            .rows
            .iter()
            .any(|row| row.session_id == Some(sessions[0].id()))
    );
}

#[test]
fn a_login_that_meets_a_revoke_all_is_refused() {
    let mut postgres = Postgres::new();
    create(&mut postgres, "a");
    let everyone = Target::User {
        user_id: "ann".to_owned(),
        keep: None,
    };
    let mut all = Transaction::new(Wish::Revoke(everyone));
    assert!(postgres.go_on(&mut all, 0).is_none());
    let new = session_layer::NewSession::new("ann").check().unwrap();
    let mut login = Transaction::new(Wish::Create(TokenDigest::of("b"), new));
    assert!(
        postgres.go_on(&mut login, 0).is_none(),
        "it waits for the lock"
    );
    assert!(postgres.go_on(&mut all, 0).is_none());
    assert!(postgres.go_on(&mut all, 0).is_some());
    let refused = postgres.go_on(&mut login, 0).unwrap().unwrap();
    assert!(matches!(refused, Outcome::Creation(Creation::Superseded)));
}

#[test]
fn who_wants_a_locked_row_looks_again_after_the_commit() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let mut revoke = Transaction::new(Wish::Revoke(Target::Id(session.id())));
    assert!(postgres.go_on(&mut revoke, 0).is_none());
    let data = session.parts().data.clone();
    let mut update = Transaction::new(Wish::Update(session.id(), 1, data));
    assert!(postgres.go_on(&mut update, 0).is_none());
    assert!(postgres.go_on(&mut revoke, 0).is_some());
    let update = postgres.go_on(&mut update, 0).unwrap().unwrap();
    assert!(matches!(update, Outcome::Change(Change::NoSession)));
}

fn touch(session: &Session) -> Transaction {
    Transaction::new(Wish::Touch(session.id(), Duration::from_secs(1)))
}

#[test]
fn a_touch_waits_for_nobody() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let mut revoke = Transaction::new(Wish::Revoke(Target::Id(session.id())));
    assert!(postgres.go_on(&mut revoke, 1000).is_none());
    for last_seen_at in [999, 1000] {
        let mut touch = touch(&session);
        assert!(postgres.go_on(&mut touch, last_seen_at).is_none());
        let passed = postgres.go_on(&mut touch, 1000).unwrap().unwrap();
        // Of one that is not due the answer is known all the same.
        match passed {
            Outcome::Change(Change::Made { .. }) => assert_eq!(last_seen_at, 999),
            Outcome::Change(Change::Conflict) => assert_eq!(last_seen_at, 1000),
            other => panic!("{other:?}"),
        }
    }
    assert!(postgres.go_on(&mut revoke, 1000).is_some());
    let after = run(&mut postgres, Wish::Touch(session.id(), Duration::ZERO));
    assert!(matches!(after, Outcome::Change(Change::NoSession)));
}

#[test]
fn a_touch_says_what_the_session_was_when_it_began() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let (mut first, mut second) = (touch(&session), touch(&session));
    assert!(postgres.go_on(&mut first, 2000).is_none());
    assert!(postgres.go_on(&mut second, 2000).is_none());
    assert!(postgres.go_on(&mut first, 2000).is_none());
    let Outcome::Change(Change::Made { session: made, .. }) =
        postgres.go_on(&mut first, 2000).unwrap().unwrap()
    else {
        panic!("nobody has locked the row");
    };
    assert_eq!(made.last_seen_at(), clock(2000));
    assert!(postgres.go_on(&mut second, 2000).is_none(), "it has locked");
    assert!(postgres.overtaken);
    let second = postgres.go_on(&mut second, 2000).unwrap().unwrap();
    assert!(matches!(second, Outcome::Change(Change::Conflict)));
}

#[test]
fn a_purge_raises_the_floor_past_what_it_removes_and_not_past_what_is_running() {
    let mut postgres = Postgres::new();
    let sessions = [create(&mut postgres, "a"), create(&mut postgres, "b")];
    run(&mut postgres, Wish::Revoke(Target::Id(sessions[0].id())));
    let open = postgres.leave_open();
    run(&mut postgres, Wish::Revoke(Target::Id(sessions[1].id())));
    postgres.purge(None);
    let read = postgres.journal_since(None, 0).unwrap();
    assert_eq!(read.rows.len(), 1);
    assert_eq!(read.floor, open);
    postgres.end(open);
    postgres.purge(None);
    let read = postgres.journal_since(None, 0).unwrap();
    assert_eq!(read.rows.len(), 0);
    assert_eq!(read.floor, open + 2);
}

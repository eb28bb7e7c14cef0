use session_layer::store::{Change, Creation, Target};

use super::*;
use crate::coverage::Event;

fn create(postgres: &mut Postgres, token: &str) -> Session {
    let new = session_layer::NewSession::new("ann").check().unwrap();
    let login = Transaction::new(Statement::Create(TokenDigest::of(token), new));
    match finish(postgres, login) {
        Outcome::Creation(Creation::Created(session)) => session,
        other => panic!("{other:?}"),
    }
}

fn revoke(session: &Session) -> Transaction {
    Transaction::new(Statement::Revoke(Target::Id(session.id())))
}

fn touch(session: &Session, granularity: u64) -> Transaction {
    Transaction::new(Statement::Touch(session.id(), Duration::from_secs(granularity)))
}

fn finish(postgres: &mut Postgres, mut transaction: Transaction) -> Outcome {
    let mut attempts = 0..4;
    let outcome = attempts.find_map(|_| postgres.advance(&mut transaction, 0));
    outcome.expect("it waits forever").unwrap()
}

#[test]
fn update_of_a_locked_row_reads_it_again_after_the_commit() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let mut revoke = revoke(&session);
    assert!(postgres.advance(&mut revoke, 0).is_none());
    let data = session.parts().data;
    let mut update = Transaction::new(Statement::Update(session.id(), 1, data));
    assert!(postgres.advance(&mut update, 0).is_none());
    assert!(postgres.advance(&mut revoke, 0).is_some());
    let update = postgres.advance(&mut update, 0).unwrap().unwrap();
    assert!(matches!(update, Outcome::Change(Change::NoSession)));
}

#[test]
fn touch_of_a_locked_row_does_not_wait() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let mut revoke = revoke(&session);
    assert!(postgres.advance(&mut revoke, 1000).is_none());
    for (began, is_due) in [(999, false), (1000, true)] {
        let mut touch = touch(&session, 1);
        assert!(postgres.advance(&mut touch, began).is_none());
        match postgres.advance(&mut touch, 1000).unwrap().unwrap() {
            Outcome::Change(Change::Made { .. }) => assert!(!is_due),
            Outcome::Change(Change::Conflict) => assert!(is_due),
            other => panic!("{other:?}"),
        }
    }
    assert!(postgres.advance(&mut revoke, 1000).is_some());
    let after = finish(&mut postgres, touch(&session, 0));
    assert!(matches!(after, Outcome::Change(Change::NoSession)));
}

#[test]
fn touch_after_another_touch_is_a_conflict() {
    let mut postgres = Postgres::new();
    let session = create(&mut postgres, "a");
    let (mut first, mut second) = (touch(&session, 1), touch(&session, 1));
    assert!(postgres.advance(&mut first, 2000).is_none());
    assert!(postgres.advance(&mut second, 2000).is_none());
    assert!(postgres.advance(&mut first, 2000).is_none());
    match postgres.advance(&mut first, 2000).unwrap().unwrap() {
        Outcome::Change(Change::Made { session, .. }) => {
            assert_eq!(session.last_seen_at(), clock(2000));
        }
        other => panic!("{other:?}"),
    }
    assert!(postgres.advance(&mut second, 2000).is_none(), "it has locked the row");
    let mut overtaken = Coverage::default();
    overtaken.saw(Event::OvertakenTouch);
    assert_eq!(postgres.coverage, overtaken);
    let second = postgres.advance(&mut second, 2000).unwrap().unwrap();
    assert!(matches!(second, Outcome::Change(Change::Conflict)));
}

#[test]
fn purge_raises_the_floor_up_to_the_oldest_running_transaction() {
    let mut postgres = Postgres::new();
    let sessions = [create(&mut postgres, "a"), create(&mut postgres, "b")];
    finish(&mut postgres, revoke(&sessions[0]));
    let open = postgres.leave_open();
    finish(&mut postgres, revoke(&sessions[1]));
    postgres.purge(None);
    let read = postgres.journal_since(None, 0).unwrap();
    assert_eq!((read.rows.len(), read.floor), (1, open));
    postgres.end(open);
    postgres.purge(None);
    let read = postgres.journal_since(None, 0).unwrap();
    assert_eq!((read.rows.len(), read.floor), (0, open + 2));
}

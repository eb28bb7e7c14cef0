//! What every `SessionStore` must do, whatever it keeps its sessions in.
//!
//! A check gets a store of its own, empty at first, and asks nothing but the port. `checks!` makes one
//! test of each for a store: `checks!(run_with_a_store)`.

use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::{Change, Creation, Revoked, Row, SessionStore, Target};
use session_layer::{CheckedSession, NewSession, Session, TokenDigest};

pub mod changes;
pub mod ends;
pub mod journal;
pub mod reads;

/// One test for each check: `$with` runs it with a store.
macro_rules! checks {
    ($with:path) => {
        $crate::conformance::checks!($with, reads:
            what_was_created_is_loaded,
            answers_come_in_the_order_of_the_digests,
            a_digest_is_taken_once,
            the_list_shows_the_living_newest_first,
            a_session_past_its_time_is_absent,
            an_unused_session_is_absent_after_its_idle_timeout,
            it_says_that_it_works,
        );
        $crate::conformance::checks!($with, changes:
            an_update_compares_the_version,
            an_update_with_the_same_data_is_a_change,
            a_rotated_token_counts_for_its_grace,
            without_grace_the_old_token_is_gone,
            a_token_is_rotated_once,
            the_token_before_the_last_rotation_is_gone,
            a_touch_moves_in_steps,
            the_dead_are_not_changed,
        );
        $crate::conformance::checks!($with, ends:
            a_session_is_revoked_by_token_id_and_owner,
            revoking_twice_finds_it_and_ends_nothing,
            revoking_nothing_is_no_error,
            the_previous_token_revokes_within_its_grace,
            all_of_a_user_but_one,
            a_login_after_revoke_all_is_new,
            digests_are_those_of_dead_and_living,
        );
        $crate::conformance::checks!($with, journal:
            changes_are_in_the_journal_with_what_was_before,
            a_touch_is_not_in_the_journal,
            a_read_goes_on_where_the_last_one_ended,
        );
    };
    ($with:path, $theme:ident: $($check:ident),* $(,)?) => {
        mod $theme {
            $(
                #[tokio::test]
                async fn $check() {
                    $with(|store| async move {
                        $crate::conformance::$theme::$check(&store).await;
                    })
                    .await;
                }
            )*
        }
    };
}
pub(crate) use checks;

pub const HOUR: Duration = Duration::from_secs(3600);

/// A digest that stands for the token `name`.
pub fn token(name: &str) -> TokenDigest {
    TokenDigest::of(name)
}

pub fn new(user: &str) -> CheckedSession {
    NewSession::new(user).check().expect("within the limits")
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

/// Creates a session of `user` under the token `name`.
pub async fn login(store: &impl SessionStore, name: &str, user: &str) -> Session {
    login_as(store, name, &new(user)).await
}

pub async fn login_as(store: &impl SessionStore, name: &str, new: &CheckedSession) -> Session {
    match store.create(token(name), new).await {
        Ok(Creation::Created(session)) => session,
        other => panic!("not created: {other:?}"),
    }
}

pub async fn load(store: &impl SessionStore, name: &str) -> Row {
    let mut loaded = store.load(&[token(name)]).await.expect("an answer");
    loaded.rows.pop().expect("one row per digest")
}

#[track_caller]
pub fn alive(row: Row) -> Session {
    match row {
        Row::Alive { session, .. } => session,
        other => panic!("not alive: {other:?}"),
    }
}

#[track_caller]
pub fn made(change: Change) -> (Session, Vec<TokenDigest>) {
    match change {
        Change::Made {
            session,
            mut digests,
        } => {
            // Their order means nothing.
            digests.sort();
            (session, digests)
        }
        other => panic!("not made: {other:?}"),
    }
}

pub async fn revoke(store: &impl SessionStore, target: Target) -> Revoked {
    let mut revoked = store.revoke(&target, "test").await.expect("an answer");
    revoked.digests.sort();
    revoked
}

pub fn of_user(user: &str) -> Target {
    Target::User {
        user_id: user.to_owned(),
        keep: None,
    }
}

pub fn sorted<const N: usize>(names: [&str; N]) -> Vec<TokenDigest> {
    let mut digests = names.map(token).to_vec();
    digests.sort();
    digests
}

/// Waits until `name` is no longer alive; at most 5 s.
pub async fn until_over(store: &impl SessionStore, name: &str) {
    for _ in 0..500 {
        if !matches!(load(store, name).await, Row::Alive { .. }) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is still alive");
}

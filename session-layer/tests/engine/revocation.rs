//! `Sessions::revoke`: every target, its reason, and waiting until it holds.

use std::time::Duration;

use session_layer::error::InputError;
use session_layer::store::Target;
use session_layer::{
    Error, RevokeTarget, SessionId, SessionToken, Sessions, TokenDigest, Validation, Visibility,
};
use tokio::time::Instant;

use crate::ports::{CROWD, Cache, Store, token, valid};

/// D, with the default journal interval.
const WITHIN: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

fn sessions(store: &Store) -> Sessions {
    Sessions::builder(Cache::default(), store.clone()).build().unwrap()
}

fn of_user(user_id: &str, keep: Option<SessionId>) -> Target {
    Target::User { user_id: user_id.to_owned(), keep }
}

#[tokio::test]
async fn every_target_reaches_the_store_with_its_reason() {
    let store = Store::new();
    let sessions = sessions(&store);
    let session = valid(&sessions, 1).await;
    let (id, user) = (session.id(), session.user_id());
    let (text, own) = (token(1), SessionToken::generate().unwrap());
    let digest = TokenDigest::of(&text);
    let (one, all, others) = ("revoked", "revoked all", "revoked all others");
    for (target, expected, reason) in [
        (RevokeTarget::from(text.as_str()), Target::Token(digest), one),
        (RevokeTarget::from(&text), Target::Token(digest), one),
        (RevokeTarget::from(&own), Target::Token(own.digest()), one),
        (RevokeTarget::from(id), Target::Id(id), one),
        (RevokeTarget::owned(user, id), Target::OwnedBy(id, user.to_owned()), one),
        (RevokeTarget::user(user), of_user(user, None), all),
        (RevokeTarget::others_of(&session), of_user(user, Some(id)), others),
    ] {
        let _ = sessions.revoke(target).await.unwrap();
        assert_eq!(store.state().revocations.pop(), Some((expected.clone(), reason.to_owned())));
        let _ = sessions.revoke(target).reason("stolen").await.unwrap();
        assert_eq!(store.state().revocations.pop(), Some((expected, "stolen".to_owned())));
    }
}

#[tokio::test]
async fn token_is_accepted_wherever_its_text_is() {
    let store = Store::new();
    let sessions = sessions(&store);
    let token = SessionToken::generate().unwrap();
    assert!(matches!(sessions.validate(&token).await, Validation::Valid(_)));
    assert!(matches!(sessions.validate(token.reveal()).await, Validation::Valid(_)));
    for rotated in
        [sessions.rotate(&token, LONG).await, sessions.rotate(token.reveal(), LONG).await]
    {
        assert!(!matches!(rotated, Err(Error::NotAToken(_))), "{rotated:?}");
    }
    let new = || session_layer::NewSession::new("alice");
    let registered = sessions.register(&token, new()).await;
    assert!(!matches!(registered, Err(Error::NotAToken(_))), "{registered:?}");
    assert!(!format!("{:?}", sessions.revoke(&token)).contains(token.reveal()));
}

#[tokio::test]
async fn bad_input_is_refused_before_the_store_is_queried() {
    let store = Store::new();
    let sessions = sessions(&store);
    let session = valid(&sessions, 1).await;
    let id = session.id();
    let refused = sessions.revoke("no token").await;
    assert!(matches!(refused, Err(Error::NotAToken(_))), "{refused:?}");
    for (target, reason, what) in [
        (RevokeTarget::user(""), "why", "user id"),
        (RevokeTarget::owned("a\0b", id), "why", "user id"),
        (RevokeTarget::from(id), "", "reason"),
        (RevokeTarget::from(id), "a\0b", "reason"),
        (RevokeTarget::from(id), &*"\u{e9}".repeat(201), "reason"),
    ] {
        let refused = sessions.revoke(target).reason(reason.to_owned()).wait(LONG).await;
        let Err(Error::Input(
            InputError::Length { what: named, .. } | InputError::Nul { what: named },
        )) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(named, what);
    }
    assert_eq!(store.state().revocations, []);
    let longest = "\u{e9}".repeat(200);
    assert!(sessions.revoke(id).reason(longest).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn user_is_revoked_once_and_waited_for() {
    let store = Store::shared();
    let sessions = sessions(&store);
    let everywhere = || sessions.revoke(RevokeTarget::user(CROWD));
    let began = Instant::now();
    let at_once = everywhere().await.unwrap();
    let Visibility::Committed { within, at_most } = at_once.visibility else {
        panic!("{at_once:?}");
    };
    assert_eq!((began.elapsed(), within), (Duration::ZERO, WITHIN));

    let waited = everywhere().wait(LONG).await.unwrap();
    assert_eq!(began.elapsed(), WITHIN);
    let left = Visibility::Committed { within: Duration::ZERO, at_most: at_most - WITHIN };
    assert_eq!((waited.value, waited.visibility), (9, left));
    assert_eq!(store.state().revocations.len(), 2, "a second try would end later logins");

    let impatient = everywhere().wait(WITHIN / 4).await.unwrap();
    assert_eq!(began.elapsed(), WITHIN * 5 / 4);
    let left = Visibility::Committed { within: WITHIN * 3 / 4, at_most: at_most - WITHIN / 4 };
    assert_eq!(impatient.visibility, left);
}

#[tokio::test(start_paused = true)]
async fn outage_is_waited_out_until_the_deadline() {
    let store = Store::shared();
    let sessions = sessions(&store);
    for target in [RevokeTarget::user(CROWD), RevokeTarget::from(&token(1))] {
        store.state().outages = 3;
        let before = store.state().revocations.len();
        let revoked = sessions.revoke(target).wait(LONG).await;
        assert!(revoked.is_ok(), "{target:?}: {revoked:?}");
        assert!(store.state().revocations.len() >= before + 4);
        store.state().outages = usize::MAX;
        let began = Instant::now();
        let failed = sessions.revoke(target).wait(WITHIN).await;
        assert!(failed.is_err_and(|error| error.is_outage()), "{target:?}");
        assert_eq!(began.elapsed(), WITHIN);
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_of_a_user_that_hangs_is_unknown_at_the_deadline() {
    let store = Store::new();
    let sessions = sessions(&store);
    store.hold_calls();
    let began = Instant::now();
    let hanging = sessions.revoke(RevokeTarget::user(CROWD)).wait(WITHIN).await;
    assert!(matches!(hanging, Err(Error::Unknown(_))), "{hanging:?}");
    assert_eq!(began.elapsed(), WITHIN);
}

/// The first attempt may have ended sessions whose rows are gone by the second.
#[tokio::test(start_paused = true)]
async fn nothing_found_after_a_lost_reply_is_still_waited_for() {
    let store = Store::shared();
    let sessions = sessions(&store);
    store.state().lost_replies = 1;
    let revoked = sessions.revoke(RevokeTarget::user("alice")).wait(LONG).await.unwrap();
    let Visibility::Committed { within, .. } = revoked.visibility else {
        panic!("{revoked:?}");
    };
    assert_eq!((revoked.value, within), (0, Duration::ZERO));
    // Without a lost reply there is nothing to wait for.
    let revoked = sessions.revoke(RevokeTarget::user("alice")).wait(LONG).await.unwrap();
    assert_eq!(revoked.visibility, Visibility::Nothing);
}

#[tokio::test(start_paused = true)]
async fn journal_is_read_until_the_last_revocation_has_ended() {
    let store = Store::shared();
    let sessions = sessions(&store);
    let revocation = sessions.revoke(RevokeTarget::user(CROWD)).wait(LONG);
    drop(sessions);
    let before = store.count("journal");
    let revoked = revocation.await.unwrap();
    assert!(matches!(revoked.visibility, Visibility::Committed { .. }), "{revoked:?}");
    assert!(store.count("journal") >= before + 3, "a change may wait for the journal");
    // The loops have ended with their last user.
    tokio::task::yield_now().await;
    let after = store.count("journal");
    tokio::time::sleep(LONG).await;
    assert_eq!(store.count("journal"), after);
}

//! Credentials that change while the store is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use session_layer::connect::{Credential, CredentialsError};
use session_layer::error::StoreErrorKind;
use session_layer::store::SessionStore as _;
use session_testkit::wait;

use super::support::Schema;
use crate::stores::support::{load, token};
use crate::support::SOON;

const UNKNOWN_USER: u8 = 0;
const ROLE: u8 = 1;
const NONE: u8 = 2;

#[tokio::test]
async fn each_connection_uses_the_present_credential() {
    let schema = Schema::new().await;
    schema.store().await;
    schema.role(&session_layer::store::grants(&schema.name, &schema.name)).await;
    let mut operator = schema.operator().await;
    operator.run(&format!("ALTER ROLE {} LOGIN", schema.name)).await;
    let now = Arc::new(AtomicU8::new(UNKNOWN_USER));
    let (source, role) = (Arc::clone(&now), schema.name.clone());
    let store = schema.builder_at(&schema.named_url()).credentials(move || {
        let credential = match source.load(Ordering::SeqCst) {
            UNKNOWN_USER => Ok(Credential::new("hunter2").user("unknown_to_postgres")),
            ROLE => Ok(Credential::new("hunter2").user(&role)),
            _ => Err(CredentialsError::new("the vault is sealed")),
        };
        std::future::ready(credential)
    });
    let store = store.build().unwrap();

    let refused = store.load(&[token("a")]).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Denied, "{refused}");
    assert!(!format!("{refused:?} {store:?}").contains("hunter2"));

    now.store(ROLE, Ordering::SeqCst);
    let reads = async || store.load(&[token("a")]).await.is_ok();
    wait::until("a read with the new credential", SOON, reads).await.unwrap();
    let user = format!(
        "SELECT min(usename)::text FROM pg_stat_activity WHERE application_name = '{}'",
        schema.name
    );
    assert_eq!(operator.ask::<String>(&user).await, schema.name);

    // An open connection needs no credential, and a new one does.
    now.store(NONE, Ordering::SeqCst);
    load(&store, "a").await;
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
         WHERE application_name = '{}'",
        schema.name
    );
    let refused = async || {
        let _: i64 = operator.ask(&kill).await;
        let refused = store.load(&[token("a")]).await.err();
        refused.is_some_and(|error| error.to_string().contains("the vault is sealed"))
    };
    wait::until("a refused credential", SOON, refused).await.unwrap();
}

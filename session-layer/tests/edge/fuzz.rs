//! Arbitrary requests cause no panic, and get no session without a valid token.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderValue, Request};
use http_body_util::Full;
use proptest::prelude::*;

use super::stub::{Stub, outcome};
use crate::ports::token;

/// Generates a field that is nearly valid, or arbitrary bytes. Tokens 0 and 2 are active and belong
/// to different users. Token 1 is unknown.
fn field() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            "Bearer ", "bearer ", "Basic ", "session=", "session", "Session=", "=", ";", "; ", ",",
            " ", "\t", "\"", "x",
        ])
        .prop_map(|part| part.as_bytes().to_vec()),
        3 => (0_usize..3).prop_map(|n| token(n).into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let value = prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat());
    (any::<bool>(), value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_request_gets_no_session_without_a_token(
        fields in prop::collection::vec(field(), 0..5),
    ) {
        let mut request = Request::new(Full::default());
        for (authorization, bytes) in &fields {
            let name = if *authorization { AUTHORIZATION } else { COOKIE };
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                request.headers_mut().append(name, value);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (status, user) = runtime.block_on(async {
            let stub = Stub::new().active(0, "alice").active(2, "bob");
            outcome(stub.layer(), request).await
        });
        let sends = |n: usize| {
            let token = token(n).into_bytes();
            fields.iter().any(|(_, bytes)| bytes.windows(43).any(|part| part == token))
        };
        match (status, user.as_str()) {
            (200, "alice") => prop_assert!(sends(0)),
            (200, "bob") => prop_assert!(sends(2)),
            (400 | 401, "") => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

//! The auto traits of public types. session-testkit asserts those of the layer.

use bytes::Bytes;
use http_body_util::Full;
use session_layer::cookie::SetCookie;
use session_layer::health::HealthFuture;
use session_layer::http::ResponseBody;
use session_layer::{HealthService, Rejection, SessionCookie, TokenSource};

#[test]
fn public_types_are_send_sync_and_clone() {
    fn is<T: Send + Sync + Clone + 'static>() {}
    fn is_send<T: Send + 'static>() {}
    is::<SessionCookie>();
    is::<SetCookie>();
    is::<TokenSource>();
    is::<Rejection>();
    is::<HealthService>();
    is_send::<HealthFuture>();
    is_send::<ResponseBody<Full<Bytes>>>();
}

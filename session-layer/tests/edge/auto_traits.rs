//! What can be shared and sent. The layer, its service and its future are asserted where they are probed, in
//! session-testkit.

use bytes::Bytes;
use http_body_util::Full;
use session_layer::{
    HealthFuture, HealthService, Rejection, ResponseBody, SessionCookie, SetCookie, TokenSource,
};

#[test]
fn what_is_send_sync_and_clone() {
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

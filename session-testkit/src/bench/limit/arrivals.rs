//! The open loop.

use std::{sync::Arc, time::Duration};

use http::header::AUTHORIZATION;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::Tally;
use crate::{app::App, bench::load::PATIENCE};

/// Returns the intended arrival of request `number`, counted from the first one.
fn intended(number: u64, rate: u32) -> Duration {
    let (rate, number) = (u64::from(rate.max(1)), number);
    let nanos = number % rate * 1_000_000_000 / rate;
    Duration::from_secs(number / rate) + Duration::from_nanos(nanos)
}

/// Returns the number of requests that arrive within a time.
fn arrivals(rate: u32, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_millis() / 1_000).unwrap_or(u64::MAX).max(1)
}

/// Sends requests at a fixed rate, and waits for their responses. No more arrive once too many have
/// missed the bar.
///
/// Tokio's timer has a resolution of 1 ms. Requests are sent up to 1 ms late, which counts as their
/// latency.
pub(super) async fn arrive(
    app: &App,
    tokens: &Arc<[String]>,
    rate: u32,
    time: Duration,
    tally: &mut Tally,
) {
    let all = arrivals(rate, time);
    let begin = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..all {
        let arrival = begin + intended(number, rate);
        if Instant::now() < arrival {
            sleep_until(arrival).await;
        }
        tally.arrived();
        requests.spawn(request(app.clone(), Arc::clone(tokens), number, arrival));
        while let Some(done) = requests.try_join_next() {
            // A request that panicked has no response.
            tally.answered(done.ok().flatten());
        }
        if tally.is_lost(all) {
            break;
        }
    }
    while let Some(done) = requests.join_next().await {
        tally.answered(done.ok().flatten());
    }
}

/// Returns the time from the intended arrival to a 200 response.
async fn request(
    app: App,
    tokens: Arc<[String]>,
    number: u64,
    arrival: Instant,
) -> Option<Duration> {
    let turn = usize::try_from(number).ok()?.checked_rem(tokens.len())?;
    let response = timeout(PATIENCE, app.call(&[(AUTHORIZATION, &tokens[turn])])).await;
    let answered = response.ok().flatten().filter(|response| response.status() == 200);
    answered.map(|_| arrival.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_equal_distances_and_no_drift() {
        assert_eq!(intended(0, 3), Duration::ZERO);
        assert_eq!(intended(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(intended(3_000_000, 3), Duration::from_secs(1_000_000));
        assert_eq!(intended(2_500, 1_000), Duration::from_millis(2_500));
    }

    #[test]
    fn rate_and_time_determine_the_number_of_arrivals() {
        let millis = Duration::from_millis;
        assert_eq!([arrivals(3, millis(1_000)), arrivals(1_000, millis(50))], [3, 50]);
        assert_eq!(arrivals(1, millis(1)), 1, "a trial without a request proves nothing");
    }
}

//! The quickstart driven from outside, as its own process: every row of CONTRACT, embedded and on
//! Redis and Postgres, with each of them broken.

mod faults;
mod process;
mod rows;
mod start_stop;

use std::sync::Arc;

use session_testkit::backends::Backends;

use self::process::App;
use crate::harness::{Outcome, Registry};

pub(crate) fn tests(reg: &mut Registry) {
    reg.plain("every_row_of_the_contract_embedded", async || {
        let app = App::embedded().await?;
        rows::all(&app).await?;
        Ok(())
    });
    reg.shared("every_row_of_the_contract", every_row);
    faults::tests(reg);
    start_stop::tests(reg);
}

async fn every_row(backends: Arc<Backends>) -> Outcome {
    let app = App::on(&backends).await?;
    rows::all(&app).await?;
    Ok(())
}

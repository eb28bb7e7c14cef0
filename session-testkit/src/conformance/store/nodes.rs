//! Checks of the registrations of nodes, which decide whether an UNLINK reaches every node.

use std::time::Duration;

use session_layer::cache::CacheId;
use session_layer::store::{NodeRegistration, RegistrationId, SessionStore};

use super::{Case, Check, HOUR, Outcome, answer};
use crate::conformance::check::{When as _, checks, ensure};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"nodes" |store| &Case::of(store) =>
        node_with_another_cache_is_counted: "`is_one_cache` is false while a node is registered \
            with another cache, also after that node has registered again. A store that records no \
            nodes always returns false.",
        forgotten_node_takes_no_other_with_it: "`forget_node` removes one registration. The others \
            still count.",
    }
}

/// Two nodes, each with a cache of its own.
struct TwoNodes<'a, S> {
    store: &'a S,
    nodes: [NodeRegistration; 2],
}

impl<'a, S: SessionStore> TwoNodes<'a, S> {
    async fn register(case: &Case<'a, S>) -> Outcome<Self> {
        let node = |number: u8| {
            let id: RegistrationId = *uuid::Uuid::new_v4().as_bytes();
            let cache = CacheId::of(&[case.id.as_bytes(), &[number]]);
            NodeRegistration { id, cache, lasts: HOUR }
        };
        let two = Self { store: case.store, nodes: [node(1), node(2)] };
        for node in &two.nodes {
            answer("register_node", two.store.register_node(node)).await?;
        }
        Ok(two)
    }

    async fn is_one(&self, cache: &CacheId) -> Outcome<bool> {
        answer("is_one_cache", self.store.is_one_cache(cache)).await
    }

    async fn differ(&self) -> Outcome {
        for (node, other) in self.nodes.iter().zip(["second", "first"]) {
            let is_one = self.is_one(&node.cache).await?;
            ensure!(!is_one, "`is_one_cache` is true, and the {other} node has another cache");
        }
        Ok(())
    }

    async fn forget(&self, node: &NodeRegistration) -> Outcome {
        answer("forget_node", self.store.forget_node(node.id)).await
    }
}

async fn node_with_another_cache_is_counted<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let two = TwoNodes::register(case).await?;
    two.differ().await?;
    // It renews its registration, for a shorter time than the first one.
    let again = NodeRegistration { lasts: Duration::from_secs(60), ..two.nodes[1].clone() };
    answer("register_node", two.store.register_node(&again)).await?;
    two.differ().await.when("after the second node has registered again")?;
    for node in &two.nodes {
        two.forget(node).await?;
    }
    Ok(())
}

async fn forgotten_node_takes_no_other_with_it<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let two = TwoNodes::register(case).await?;
    let [first, second] = &two.nodes;
    two.forget(first).await?;
    let is_one = two.is_one(&first.cache).await?;
    ensure!(
        !is_one,
        "`is_one_cache` is true for the cache of a forgotten node, and another remains"
    );
    two.forget(second).await
}

//! Events as faults that the workload's runner causes and heals.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{Effect, Event, Lost, Schedule, Step, planting, revokes};
use crate::{
    deployment::{Certificates, Deployment, Restarts, TokenIssuer},
    history::{Entry, Op, Operation, Touched},
    proxy::{Network, Peer, Toxic, ToxicGuard},
    subject::Subject,
    wall_clock::WallClock,
    workload::{Break, Failure, Recorder, Scheduled, Tokens},
};

/// The share of the matching commands that are lost.
const LOST: f64 = 0.02;

impl Schedule {
    /// Returns the faults for a runner: the effect of each step on the deployment, and its meaning.
    /// The recorder and the tokens are those of the [`Runner`](crate::workload::Runner).
    pub fn on(
        &self,
        deployment: &Deployment,
        recorder: &Recorder,
        tokens: &Tokens,
    ) -> Vec<Scheduled> {
        let world = World { deployment, recorder, tokens };
        let numbered = self.steps.iter().zip(0_u64..);
        numbered
            .map(|(step, number)| {
                let seed = self.seed.wrapping_mul(31).wrapping_add(number);
                let mut scheduled = world.make(step, seed);
                scheduled.nodes = step.affected_nodes();
                scheduled.effect = Effect::of(step.event);
                scheduled
            })
            .collect()
    }
}

struct World<'a> {
    deployment: &'a Deployment,
    recorder: &'a Recorder,
    tokens: &'a Tokens,
}

impl World<'_> {
    fn make(&self, step: &Step, seed: u64) -> Scheduled {
        let deployment = self.deployment;
        let nodes = step.affected_nodes().unwrap_or_else(|| (0..deployment.nodes()).collect());
        match step.event {
            Event::Fault(fault) => {
                let mut target = deployment.target().clone();
                if step.nodes.is_some() {
                    target = target.nodes(nodes.iter().map(|node| *node as usize));
                }
                Scheduled::fault(fault, &target, step.at, step.lasts)
            }
            Event::Lose(lost) => {
                let network = Arc::clone(deployment.network());
                scheduled(step, Losing { lost, seed, network, nodes, toxics: Vec::new() })
            }
            Event::NodeRestart => {
                let restarts = deployment.restarts();
                let restart = move |turn| restart(restarts.clone(), nodes.clone(), turn);
                scheduled(step, Repeated::new(500, restart))
            }
            Event::RandomTokens => {
                let (subject, recorder) = (deployment.subject(), self.recorder.clone());
                let flood = move |turn| {
                    let node = u32::try_from(turn).unwrap_or_default() % subject.nodes().max(1);
                    random_tokens(subject.clone(), recorder.clone(), node, seed ^ turn)
                };
                scheduled(step, Repeated::new(20, flood))
            }
            Event::ClockStep => {
                scheduled(step, Stepping { nodes: deployment.nodes(), clock: None })
            }
            Event::Plant(planted) => {
                let redis = deployment.backends().redis().clone();
                let namespace = deployment.namespace().to_owned();
                let plant = move |turn| {
                    planting::plant(planted, redis.clone(), namespace.clone(), seed ^ turn)
                };
                scheduled(step, Repeated::new(50, plant))
            }
            Event::PlainRevoke => {
                let operator = self.operator(seed);
                let revoke = move |turn| -> Turn { Box::pin(operator.clone().revoke(turn)) };
                scheduled(step, Repeated::new(100, revoke))
            }
            Event::LateRevoke => scheduled(step, revokes::Late::new(self.operator(seed))),
            Event::CredentialsExpire => {
                let tokens = deployment.tokens().cloned();
                scheduled(step, Expiring { tokens, turns: None })
            }
            Event::CertificateExpire => {
                let certificates = deployment.certificates().cloned();
                scheduled(step, Expired { certificates, closed: 0 })
            }
        }
    }

    fn operator(&self, seed: u64) -> revokes::Operator {
        revokes::Operator::new(self.deployment, self.recorder, self.tokens, seed)
    }
}

fn scheduled(step: &Step, breaks: impl Break) -> Scheduled {
    Scheduled::new(step.event.name(), step.at, step.lasts, breaks)
}

struct Losing {
    lost: Lost,
    seed: u64,
    network: Arc<Network>,
    nodes: Vec<u32>,
    toxics: Vec<ToxicGuard>,
}

impl Break for Losing {
    async fn cause(&mut self) -> Result<(), Failure> {
        // The command's text in Redis' protocol. Only a fence has the value `T`.
        let (unlink, fence) = ("$6\r\nUNLINK\r\n", "$1\r\nT\r\n");
        let toxic = match self.lost {
            Lost::Unlinks => Toxic::lose(unlink),
            Lost::UnlinkReplies => Toxic::lose_reply(unlink),
            Lost::Fences => Toxic::lose(fence),
            Lost::FenceReplies => Toxic::lose_reply(fence),
        };
        for (proxy, node) in self.network.proxies(Peer::Redis).zip(0_u32..) {
            if self.nodes.contains(&node) {
                // Each node has its own random sequence.
                let seed = self.seed.wrapping_add(u64::from(node) << 48);
                let toxic = toxic.clone().chance(LOST, seed);
                self.toxics.push(proxy.inject(toxic));
            }
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let reports = self.toxics.drain(..).map(ToxicGuard::heal);
        let connections = reports.map(|report| report.connections).sum();
        Ok(Some(Touched { connections, bytes: 0 }))
    }
}

/// A token expires after twice this time.
const TOKENS_EVERY_MS: u64 = 4_000;

const STEP: Duration = Duration::from_secs(600);

/// The nodes' wall clock, which is that of this process.
struct Stepping {
    nodes: u32,
    clock: Option<WallClock>,
}

impl Break for Stepping {
    async fn cause(&mut self) -> Result<(), Failure> {
        let clock = self.clock.insert(WallClock::found()?);
        Ok(clock.step_to(STEP).await?)
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let Some(clock) = self.clock.take() else {
            return Ok(None);
        };
        clock.step_to(Duration::ZERO).await?;
        // Both steps were verified.
        let connections = u64::from(self.nodes);
        Ok(Some(Touched { connections, bytes: 0 }))
    }
}

/// The tokens of the nodes, which expire until healing.
struct Expiring {
    tokens: Option<TokenIssuer>,
    turns: Option<Repeated>,
}

impl Break for Expiring {
    async fn cause(&mut self) -> Result<(), Failure> {
        let tokens = self.tokens.clone().ok_or("the nodes have no tokens")?;
        let turn = move |_| -> Turn {
            let tokens = tokens.clone();
            Box::pin(async move { tokens.turn().await })
        };
        self.turns.insert(Repeated::new(TOKENS_EVERY_MS, turn)).cause().await
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let (Some(turns), Some(tokens)) = (&mut self.turns, &self.tokens) else {
            return Ok(None);
        };
        let fetched = turns.heal().await?;
        tokens.last_forever().await?;
        Ok(fetched)
    }
}

/// The certificates of both servers, which are renewed at healing.
struct Expired {
    certificates: Option<Arc<Certificates>>,
    /// The number of connections to Redis that were closed.
    closed: u64,
}

impl Break for Expired {
    async fn cause(&mut self) -> Result<(), Failure> {
        let certificates = self.certificates.as_ref().ok_or("the servers have no certificates")?;
        self.closed = certificates.expire().await?;
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        if let Some(certificates) = &self.certificates {
            certificates.renew().await?;
        }
        Ok(Some(Touched { connections: self.closed, bytes: 0 }))
    }
}

type Turn = Pin<Box<dyn Future<Output = Result<u64, Failure>> + Send>>;

/// An action that is repeated until the fault heals. Each turn returns how much it affected. The
/// next turn makes up for a failed one. If all turns fail, the fault affected nothing.
struct Repeated {
    every: Duration,
    act: Option<Box<dyn FnMut(u64) -> Turn + Send>>,
    stop: watch::Sender<bool>,
    running: JoinSet<u64>,
}

impl Repeated {
    fn new(every_ms: u64, act: impl FnMut(u64) -> Turn + Send + 'static) -> Self {
        Self {
            every: Duration::from_millis(every_ms),
            act: Some(Box::new(act)),
            stop: watch::Sender::new(false),
            running: JoinSet::new(),
        }
    }
}

impl Break for Repeated {
    async fn cause(&mut self) -> Result<(), Failure> {
        let Some(mut act) = self.act.take() else {
            return Err("the fault was caused twice".into());
        };
        let mut stop = self.stop.subscribe();
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.running.spawn(async move {
            let mut touched = 0;
            for turn in 0.. {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break,
                    _ = ticks.tick() => {}
                }
                match act(turn).await {
                    Ok(more) => touched += more,
                    Err(error) => tracing::debug!(error, "a turn failed"),
                }
            }
            touched
        });
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        self.stop.send_replace(true);
        let mut touched = Touched::default();
        while let Some(turns) = self.running.join_next().await {
            touched.connections += turns?;
        }
        Ok(Some(touched))
    }
}

fn restart(restarts: Restarts, nodes: Vec<u32>, turn: u64) -> Turn {
    Box::pin(async move {
        let at = usize::try_from(turn).unwrap_or_default() % nodes.len().max(1);
        let node = nodes.get(at).ok_or("there is no node to restart")?;
        restarts.restart(*node).await?;
        Ok(1)
    })
}

/// Starts ten validates concurrently, recorded beside the load.
fn random_tokens<S: Subject + Clone>(subject: S, recorder: Recorder, node: u32, seed: u64) -> Turn {
    use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let tokens: Vec<[u8; 32]> = (0..10).map(|_| rng.random()).collect();
    Box::pin(async move {
        let clock = recorder.clock();
        let (subject, recorder) = (&subject, &recorder);
        let validates = tokens.into_iter().map(|bytes| async move {
            let token = subject.random_token(bytes);
            let call = clock.now();
            let answer = Some(subject.validate(node, &token).await);
            recorder.record(Entry::Op(Operation {
                node,
                call,
                ret: Some(clock.now()),
                dropped: None,
                op: Op::ValidateRandom { answer },
            }));
        });
        Ok(futures_util::future::join_all(validates).await.len() as u64)
    })
}

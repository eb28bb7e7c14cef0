//! Servers in containers, through testcontainers.
//!
//! We choose the host port and bind it, because a port that the engine picks changes with every
//! restart. A request to the server itself determines readiness, not its log. Therefore the
//! official images and ours (`images/build.sh`) are interchangeable. The [`Supervisor`] knows the
//! container's name before the container exists.

mod engine;

use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::Signal;
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt as _,
    bollard::{
        models::{NetworkConnectRequest, NetworkDisconnectRequest},
        query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder},
    },
    core::IntoContainerPort as _,
    runners::AsyncRunner as _,
};

use super::{chain, error::BackendError, kind::Kind, native::free_port, supervisor::Supervisor};
use crate::wait::{self, Patience};
pub(crate) use engine::image;

/// The limit for creating and starting a container. A busy engine takes seconds.
const START: Duration = Duration::from_secs(60);

/// Returns the name and the tag of an image. Its registry may have a port.
fn name_and_tag(image: &str) -> (&str, &str) {
    let tagged = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    tagged.unwrap_or((image, "latest"))
}

/// A server in a container that we started.
#[derive(Debug)]
pub(crate) struct Container {
    kind: &'static str,
    name: String,
    port: u16,
    address: String,
    container: Option<ContainerAsync<GenericImage>>,
    supervisor: Supervisor,
}

impl Container {
    /// Creates and starts a container, whose server is not ready yet.
    pub(crate) async fn start<K: Kind>(
        image: &str,
        extra: &[String],
    ) -> Result<Self, BackendError> {
        engine::sweep().await;
        let mut tries = 0;
        loop {
            match Self::start_once::<K>(image, extra).await {
                // Another process took the port between our check and the engine's start.
                Err(error) if tries < 3 && chain(&error).contains("port is already allocated") => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once<K: Kind>(image: &str, extra: &[String]) -> Result<Self, BackendError> {
        let (repository, tag) = name_and_tag(image);
        let name = format!("session-testkit-{}", uuid::Uuid::new_v4().simple());
        let port = free_port()?;
        let supervisor = Supervisor::start(None)?;
        supervisor.container(Some(&name))?;

        let mut request = GenericImage::new(repository, tag)
            .with_container_name(&name)
            .with_cmd(K::command(image, extra))
            .with_labels(engine::labels())
            .with_mapped_port(port, K::PORT.tcp())
            .with_startup_timeout(START);
        for (variable, value) in K::ENVIRONMENT {
            request = request.with_env_var(*variable, *value);
        }
        if engine::is_local() {
            // The server requires no password, therefore it must not be reachable from the network.
            request = request.with_host_config_modifier(|config| {
                let bindings = config.port_bindings.iter_mut().flat_map(|ports| ports.values_mut());
                for binding in bindings.flatten().flatten() {
                    binding.host_ip = Some("127.0.0.1".to_owned());
                }
            });
        }
        let container = request.start().await;
        // On error the supervisor removes a partly created container.
        let container = container.map_err(BackendError::failed(format!("start {image}")))?;
        let host = match container.get_host().await {
            Ok(host) if host.to_string() != "localhost" => host.to_string(),
            _ => "127.0.0.1".to_owned(),
        };
        Ok(Self {
            kind: K::NAME,
            port: K::PORT,
            address: format!("{host}:{port}"),
            container: Some(container),
            name,
            supervisor,
        })
    }

    /// Returns the `host:port`, which stays the same over restarts.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the container's networks with its address in each.
    async fn networks(&self) -> Result<Vec<(String, Option<String>)>, BackendError> {
        let inspected = engine::client().await?.inspect_container(&self.name, None).await;
        let inspected = inspected.map_err(BackendError::failed("inspect a container"))?;
        // testcontainers' `get_bridge_ip_address` expects a network named "default" and finds none.
        let networks = inspected.network_settings.and_then(|settings| settings.networks);
        let networks = networks.into_iter().flatten();
        Ok(networks.map(|(name, network)| (name, network.ip_address)).collect())
    }

    /// Disconnects the container from its networks and returns their names.
    pub(crate) async fn disconnect(&self) -> Result<Vec<String>, BackendError> {
        let client = engine::client().await?;
        let mut left = Vec::new();
        for (network, _) in self.networks().await? {
            let request =
                NetworkDisconnectRequest { container: self.name.clone(), force: Some(true) };
            let done = client.disconnect_network(&network, request).await;
            done.map_err(BackendError::failed("disconnect a container"))?;
            left.push(network);
        }
        Ok(left)
    }

    /// Connects the container to these networks again.
    pub(crate) async fn reconnect(&self, networks: &[String]) -> Result<(), BackendError> {
        let client = engine::client().await?;
        for network in networks {
            let request =
                NetworkConnectRequest { container: self.name.clone(), endpoint_config: None };
            let done = client.connect_network(network, request).await;
            done.map_err(BackendError::failed("reconnect a container"))?;
        }
        Ok(())
    }

    /// Returns the address for other containers. It changes with a restart.
    pub(crate) async fn address_for_peers(&self) -> Result<String, BackendError> {
        let networks = self.networks().await?;
        let mut addresses = networks.into_iter().filter_map(|(_, address)| address);
        let address = addresses.find(|address| !address.is_empty()).ok_or_else(|| {
            let failed = BackendError::failed(format!("find the address of {}", self.name));
            failed("it has none, as after a stop")
        })?;
        Ok(format!("{address}:{}", self.port))
    }

    fn container(&self) -> Result<&ContainerAsync<GenericImage>, BackendError> {
        // The field is empty only during a drop.
        self.container.as_ref().ok_or_else(|| {
            BackendError::failed(format!("find the container {}", self.name))("it was removed")
        })
    }

    pub(crate) async fn running(&self) -> Result<bool, BackendError> {
        let running = self.container()?.is_running().await;
        running.map_err(BackendError::failed("inspect a container"))
    }

    pub(crate) async fn start_again(&self) -> Result<(), BackendError> {
        let started = self.container()?.start().await;
        started.map_err(BackendError::failed(format!("start {} again", self.kind)))
    }

    /// Ends the server with this signal, and with SIGKILL after 5 s.
    pub(crate) async fn end(&self, signal: Signal) -> Result<(), BackendError> {
        match self.signal(signal).await {
            Err(BackendError::Deadline { .. }) => self.signal(Signal::KILL).await,
            result => result,
        }
    }

    /// Sends a signal and waits up to 5 s for the end.
    async fn signal(&self, signal: Signal) -> Result<(), BackendError> {
        if !self.running().await? {
            return Ok(());
        }
        let number = signal.as_raw().to_string();
        let options = KillContainerOptionsBuilder::new().signal(&number).build();
        let sent = engine::client().await?.kill_container(&self.name, Some(options)).await;
        // The container may have ended meanwhile.
        if let Err(error) = sent
            && self.running().await?
        {
            return Err(BackendError::failed(format!("end {}", self.kind))(error));
        }
        let deadline = Duration::from_secs(5);
        let mut patience = Patience::new("the container to end", deadline);
        let ended = async || matches!(self.running().await, Ok(false));
        let in_vain =
            |_| BackendError::Deadline { action: "end", server: self.kind, waited: deadline };
        while !patience.look(ended()).await.map_err(in_vain)? {}
        Ok(())
    }

    pub(crate) async fn pause(&self) -> Result<(), BackendError> {
        let paused = self.container()?.pause().await;
        paused.map_err(BackendError::failed(format!("pause {}", self.kind)))
    }

    pub(crate) async fn resume(&self) -> Result<(), BackendError> {
        let resumed = self.container()?.unpause().await;
        resumed.map_err(BackendError::failed(format!("resume {}", self.kind)))
    }

    /// Returns the last log lines.
    pub(crate) async fn logs(&self) -> Vec<String> {
        let Ok(client) = engine::client().await else {
            return Vec::new();
        };
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("200").build();
        let mut chunks = std::pin::pin!(client.logs(&self.name, Some(options)));
        let mut text = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            text.extend_from_slice(&chunk.into_bytes());
        }
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl Drop for Container {
    /// Removes the container through the engine, on another thread. testcontainers' own destructor
    /// needs a runtime, which a value that outlives its test does not have.
    fn drop(&mut self) {
        let Some(container) = self.container.take() else {
            return;
        };
        match wait::blocking(container.rm()) {
            Some(Ok(())) => {
                let _gone = self.supervisor.container(None);
            }
            // The supervisor tries once more.
            Some(Err(error)) => {
                tracing::warn!(%error, name = self.name, "could not remove a container");
            }
            None => tracing::warn!(name = self.name, "could not remove a container"),
        }
    }
}

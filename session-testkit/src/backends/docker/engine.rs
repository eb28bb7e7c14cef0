//! The Docker engine: its availability, its images, and containers left by ended processes.

use std::{collections::HashMap, env, fs, path::Path, sync::LazyLock, time::Duration};

use testcontainers::{
    GenericImage,
    bollard::{
        Docker,
        query_parameters::{
            ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
        },
    },
    core::client::docker_client_instance,
    runners::AsyncRunner as _,
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

use crate::backends::{chain, error::BackendError, given, kind::Kind};

/// The response timeout. The engine is on this machine or near.
const ANSWER: Duration = Duration::from_secs(5);
/// The limit for a pull: a hundred megabytes over a slow connection.
const PULL: Duration = Duration::from_secs(300);

const OWNER: &str = "session-testkit.owner";
const MACHINE: &str = "session-testkit.machine";

/// The machine and process namespace. Several machines may share an engine, and only a process in
/// the same namespace can check whether an owner still runs.
static MACHINE_ID: LazyLock<String> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
});

/// Returns a client of the engine, configured as in testcontainers.
pub(super) async fn client() -> Result<Docker, BackendError> {
    docker_client_instance().await.map_err(BackendError::failed("reach the Docker engine"))
}

/// Returns whether this machine's loopback reaches the ports that the engine binds.
pub(super) fn is_local() -> bool {
    // This process may itself run in a container.
    !is_remote(docker_host().as_deref()) && !Path::new("/.dockerenv").exists()
}

fn docker_host() -> Option<String> {
    env::var("DOCKER_HOST").ok().filter(|host| !host.trim().is_empty())
}

/// Returns whether `DOCKER_HOST` names an engine over a network.
fn is_remote(docker_host: Option<&str>) -> bool {
    docker_host.is_some_and(|host| !host.starts_with("unix://"))
}

/// The variable that allows containers on an engine over a network.
const EXPOSE: &str = "SESSION_TESTKIT_DOCKER_EXPOSE";

/// Returns why containers must not be started. Their servers require no password. On an engine over
/// a network, their ports are open to every network of its machine.
fn refusal(docker_host: Option<&str>, expose: Option<&str>) -> Option<&'static str> {
    let is_allowed = expose.is_some_and(|on| ["true", "1"].contains(&on.trim()));
    (is_remote(docker_host) && !is_allowed).then_some(
        "DOCKER_HOST names an engine over a network, whose machine would open servers without a \
         password to its networks: set SESSION_TESTKIT_DOCKER_EXPOSE=true if only tests reach them",
    )
}

/// Returns the labels of our containers.
pub(super) fn labels() -> [(&'static str, String); 2] {
    [(OWNER, std::process::id().to_string()), (MACHINE, MACHINE_ID.clone())]
}

/// Returns the image of this kind, which is pulled if necessary. The error is the reason.
pub(crate) async fn image<K: Kind>() -> Result<String, String> {
    if let Some(why) = refusal(docker_host().as_deref(), env::var(EXPOSE).ok().as_deref()) {
        return Err(why.to_owned());
    }
    let client = client().await.map_err(|error| chain(&error))?;
    match timeout(ANSWER, client.ping()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("no engine responds ({})", chain(&error))),
        Err(_) => return Err(format!("the engine did not respond within {ANSWER:?}")),
    }
    if let Some(image) = given(K::IMAGE_VARIABLE) {
        let named = |why| format!("{} names the image, and {why}", K::IMAGE_VARIABLE);
        return pull(&client, image.trim()).await.map_err(named);
    }
    if let Some(image) = built_here(&client, K::OWN_IMAGE).await {
        return Ok(image);
    }
    for image in K::OFFICIAL_IMAGES {
        if client.inspect_image(image).await.is_ok() {
            return Ok((*image).to_owned());
        }
    }
    pull(&client, K::OFFICIAL_IMAGES[0]).await.map_err(|why| {
        format!("{why}. session-testkit/images/build.sh builds one from Debian's packages")
    })
}

/// Returns the highest tag of an image that `images/build.sh` built.
async fn built_here(client: &Docker, repository: &str) -> Option<String> {
    let filters = HashMap::from([("reference", vec![repository])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = client.list_images(Some(options)).await.ok()?;
    let tags = images.into_iter().flat_map(|image| image.repo_tags);
    let major = |image: &String| image.rsplit(':').next().and_then(|tag| tag.parse::<u32>().ok());
    tags.filter(|image| major(image).is_some()).max_by_key(major)
}

async fn pull(client: &Docker, image: &str) -> Result<String, String> {
    /// A lock for one pull at a time. The second caller finds the first one's image.
    static PULLING: Mutex<()> = Mutex::const_new(());
    let _one = PULLING.lock().await;
    if client.inspect_image(image).await.is_ok() {
        return Ok(image.to_owned());
    }
    let (repository, tag) = super::name_and_tag(image);
    match timeout(PULL, GenericImage::new(repository, tag).pull_image()).await {
        Ok(Ok(_)) => Ok(image.to_owned()),
        Ok(Err(error)) => Err(format!(
            "the engine has not got {image}, which could not be pulled ({})",
            chain(&error)
        )),
        Err(_) => Err(format!("{image} could not be pulled within {PULL:?}")),
    }
}

/// Removes containers whose owner has ended, once per process. Usually their supervisor did that,
/// unless it was killed too or has neither `docker` nor `curl`.
pub(super) async fn sweep() {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    let sweep = async || {
        if let Err(error) = sweep_now().await {
            let error = chain(&error);
            tracing::warn!(error, "could not search for containers of ended processes");
        }
    };
    SWEPT.get_or_init(sweep).await;
}

async fn sweep_now() -> Result<(), BackendError> {
    let client = client().await?;
    let filters = HashMap::from([("label", vec![format!("{MACHINE}={}", *MACHINE_ID)])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = client.list_containers(Some(options)).await;
    for container in containers.map_err(BackendError::failed("list containers"))? {
        let owner = container.labels.as_ref().and_then(|labels| labels.get(OWNER));
        let ended = owner.and_then(|pid| pid.parse().ok()).is_some_and(|pid: i32| !runs(pid));
        if let (true, Some(id)) = (ended, container.id) {
            tracing::info!(id, "removing a container whose owner has ended");
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // Another process may be removing it as well.
            let _gone = client.remove_container(&id, Some(options)).await;
        }
    }
    Ok(())
}

fn runs(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_over_a_network_needs_permission() {
        for here in [None, Some("unix:///var/run/docker.sock")] {
            assert_eq!(refusal(here, None), None, "{here:?}");
        }
        for there in ["tcp://docker:2375", "ssh://ci@docker", "http://docker:2375"] {
            for expose in [None, Some(""), Some("false"), Some("yes")] {
                let why = refusal(Some(there), expose).expect("it is refused");
                assert!(why.contains(EXPOSE), "{why}");
            }
            assert_eq!(refusal(Some(there), Some("true")), None, "{there}");
            assert_eq!(refusal(Some(there), Some("1")), None, "{there}");
        }
    }
}

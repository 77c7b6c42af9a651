//! Where a lab's pods come from: documents that are followed, or an API server of which the lab is a node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use podgate_config::model::{Cluster, NodeName};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::sync::watch;

use super::door;
use super::kubelet::Kubelet;
use super::plan::{self, External, LabPod, Plan};
use super::supervisor::{LabOptions, Word, end_child, say, wait_child};
use super::test_api;
use crate::source::kubernetes::Access;
use crate::source::{self, SourceState};
use crate::store;

/// How long the API server may take to take the node back.
const LEAVE: Duration = Duration::from_secs(2);

/// An API server that a lab follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiServer {
    /// That of a kubeconfig's current context.
    Kubeconfig(PathBuf),
    /// One of the lab's own, which begins with what the `-f` paths say.
    Test,
}

/// Where a lab's pods come from.
pub(super) enum Origin {
    Documents { followed: watch::Receiver<SourceState>, node: Option<NodeName> },
    Api { kubelet: Box<Kubelet>, test_server: Option<Child> },
}

impl Origin {
    pub async fn open(options: &LabOptions) -> anyhow::Result<Self> {
        let wanted = options.node.as_deref();
        let files = options.files.clone();
        let (client, node, test_server) = match &options.api {
            None => {
                let followed = tokio::task::spawn_blocking(move || source::follow(files)).await??;
                let cluster = store::merge(&followed.borrow().objects).cluster;
                return Ok(Self::Documents { node: plan::choose_node(&cluster, wanted)?, followed });
            }
            Some(ApiServer::Kubeconfig(path)) => {
                let node = NodeName::parse(wanted.context("--kubeconfig needs --node")?)?;
                door::check(path)?;
                (Access::Kubeconfig(path.clone()).connect().await?.0, node, None)
            }
            Some(ApiServer::Test) => {
                say(&Word::Progress("starting the test API server".to_owned()));
                let manifests = test_api::Manifests::read(&files)?;
                let node = match wanted {
                    Some(wanted) => Some(NodeName::parse(wanted)?),
                    None => plan::choose_node(&manifests.cluster, None)?,
                };
                let node = node.map_or_else(|| NodeName::parse(test_api::NODE), Ok)?;
                let server = test_api::start(node.as_str()).await?;
                let (client, _) = Access::Kubeconfig(test_api::kubeconfig_path()).connect().await?;
                test_api::fill(&client, manifests.objects()).await?;
                (client, node, Some(server))
            }
        };
        say(&Word::Progress(format!("taking the node {node} of the API server over")));
        let kubelet = Box::new(Kubelet::start(client, &node).await?);
        Ok(Self::Api { kubelet, test_server })
    }

    /// Waits until [`Self::plan`] may be another than before.
    ///
    /// # Errors
    /// If nobody follows the pods any more, or somebody else has the node now.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Documents { followed, .. } => {
                followed.changed().await.context("the thread that follows the documents ended")
            }
            Self::Api { kubelet, test_server } => tokio::select! {
                changed = kubelet.changed() => changed,
                status = wait_child(test_server) => {
                    tracing::warn!(%status, "the test API server has ended, its log is {}; what it said last stays until \
                        `podgate lab down`", test_api::log_path().display());
                    Ok(())
                }
            },
        }
    }

    /// What the lab should consist of; `kept` are the addresses of running pods.
    pub fn plan(&mut self, externals: &[External], kept: &HashMap<String, Vec<IpAddr>>) -> Plan {
        let (cluster, node, problems): (Cluster, _, _) = match self {
            Self::Documents { followed, node } => {
                (store::merge(&followed.borrow_and_update().objects).cluster, node.clone(), Vec::new())
            }
            Self::Api { kubelet, .. } => {
                let (cluster, problems) = kubelet.cluster();
                (cluster, Some(kubelet.node().clone()), problems)
            }
        };
        let mut plan = plan::plan(cluster, node.as_ref(), externals, kept);
        plan.warnings.extend(problems);
        plan
    }

    /// Tells the API server, if there is one, of the pods that are wired, each with whether its packets are judged.
    pub async fn report<'a>(
        &mut self,
        wired: impl Iterator<Item = (&'a LabPod, bool)>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Documents { .. } => Ok(()),
            Self::Api { kubelet, .. } => kubelet.report(wired).await,
        }
    }

    pub async fn close(self) {
        let Self::Api { kubelet, test_server } = self else { return };
        match test_server {
            // Nobody is left to whom the lease would say something.
            Some(server) => end_child(Some(server)).await,
            None => {
                // It runs out by itself.
                let _ = tokio::time::timeout(LEAVE, kubelet.leave()).await;
            }
        }
    }
}

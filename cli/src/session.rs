//! What every client command needs: a connection, a namespace, and what kinds are called.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::pb;
use kontiki_proto::{Registry, Resource, Status, Target, wire};
use tokio::sync::OnceCell;

use crate::commands::Global;
use crate::kubeconfig;

/// How long a person waits for an answer that needs no work.
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(10);

/// One command's view of the cluster.
pub struct Session {
    pub client: Client,
    pub namespace: String,
    served: OnceCell<Registry>,
}

/// A kind, and perhaps the names of some of its objects.
#[derive(Clone, Debug)]
pub struct Selected {
    pub row: Arc<Resource>,
    pub names: Vec<String>,
}

impl Session {
    /// # Errors
    /// No kubeconfig, or one that leads nowhere. The server is not contacted yet.
    pub fn open(global: &Global) -> Result<Session> {
        let path = kubeconfig::find(global.kubeconfig.as_deref())?;
        let connection = kubeconfig::load(&path, global.context.as_deref())?;
        let mut config = ClientConfig::new([connection.server], &connection.ca_pem);
        if let Some((certificate, key)) = &connection.identity {
            config = config.with_identity(certificate, key);
        }
        if let Some(token) = connection.token {
            config = config.with_token(token);
        }
        Ok(Session {
            client: Client::new(config)?,
            namespace: global.namespace.clone().unwrap_or(connection.namespace),
            served: OnceCell::new(),
        })
    }

    /// The collection of a row: in this session's namespace where the kind has one.
    pub fn collection(&self, row: &Resource) -> Target {
        let target = Target::of(row);
        if row.namespaced() { target.within(&self.namespace) } else { target }
    }

    pub fn object(&self, row: &Resource, name: &str) -> Target {
        self.collection(row).named(name)
    }

    /// Everything the server serves, custom resources included; asked once.
    ///
    /// # Errors
    /// What the server said, or that it does not answer.
    pub async fn served(&self) -> Result<&Registry> {
        self.served
            .get_or_try_init(|| async {
                let mut resources = self.client.resources();
                let asked = resources.discover(pb::DiscoverRequest {});
                let reply = tokio::time::timeout(DISCOVERY_DEADLINE, asked)
                    .await
                    .context("the server does not say what it serves")?
                    .map_err(Status::from)?
                    .into_inner();
                Ok(wire::registry(&reply))
            })
            .await
    }

    /// The kind a person named; built-in kinds are known without asking.
    ///
    /// # Errors
    /// In kubectl's words when there is no such kind.
    pub async fn kind(&self, name: &str) -> Result<Arc<Resource>> {
        if let Some(row) = Registry::builtin().find_name(name) {
            return Ok(row.clone());
        }
        match self.served().await?.find_name(name) {
            Some(row) => Ok(row.clone()),
            None => bail!("the server doesn't have a resource type \"{name}\"; see `kontiki api-resources`"),
        }
    }

    /// The row of a document's `apiVersion` and `kind`.
    ///
    /// # Errors
    /// When the server does not serve it.
    pub async fn kind_of(&self, api_version: &str, kind: &str) -> Result<Arc<Resource>> {
        if let Some(row) = Registry::builtin().find_kind(api_version, kind) {
            return Ok(row.clone());
        }
        let served = self.served().await?.find_kind(api_version, kind);
        served
            .cloned()
            .with_context(|| format!("no matches for kind \"{kind}\" in version \"{api_version}\""))
    }

    /// What kubectl takes behind a verb: `pods`, `pods a b`, `pods,services`, `pod/a service/b`, `all`.
    ///
    /// # Errors
    /// An unknown kind, or a mixture of the forms.
    pub async fn select(&self, words: &[String]) -> Result<Vec<Selected>> {
        let Some(first) = words.first() else { bail!("name a kind, such as pods, or TYPE/NAME") };
        if words.iter().any(|word| word.contains('/')) {
            let mut selected: Vec<Selected> = Vec::new();
            for word in words {
                let Some((kind, name)) = word.split_once('/') else {
                    bail!("{word:?} is not TYPE/NAME; the forms cannot be mixed");
                };
                selected.push(Selected { row: self.kind(kind).await?, names: vec![name.into()] });
            }
            return Ok(selected);
        }
        let mut kinds = Vec::new();
        for name in first.split(',') {
            if name == "all" {
                let all = self.served().await?.rows().iter();
                kinds.extend(all.filter(|row| row.categories.iter().any(|c| c == "all")).cloned());
            } else {
                kinds.push(self.kind(name).await?);
            }
        }
        let mut seen = std::collections::HashSet::new();
        kinds.retain(|row: &Arc<Resource>| seen.insert((row.group.clone(), row.plural.clone())));
        if kinds.len() > 1 && words.len() > 1 {
            bail!("names cannot stand behind several kinds; use TYPE/NAME");
        }
        Ok(kinds.into_iter().map(|row| Selected { row, names: words[1..].to_vec() }).collect())
    }
}

//! The part of a kubeconfig that says where the cluster is and who one is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde::Deserialize;

/// Where the current context leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `host:port`.
    pub server: String,
    pub ca_pem: String,
    /// Certificate and key, PEM.
    pub identity: Option<(String, String)>,
    pub token: Option<String>,
    pub namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

/// The file to read: the one asked for, `$KUBECONFIG`, `~/.kube/config`, or a local cluster's.
///
/// # Errors
/// Says where was looked when there is none.
pub fn find(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        // The first of a list that exists; merging several is kubectl's own art.
        let paths: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let existing = paths.iter().find(|path| path.exists());
        return existing.or(paths.first()).cloned().context("KUBECONFIG is empty");
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let candidates = [home, Some(PathBuf::from(".kontiki/kubeconfig"))];
    candidates.into_iter().flatten().find(|path| path.exists()).context(
        "no kubeconfig: neither --kubeconfig nor $KUBECONFIG is set, and ~/.kube/config and \
         .kontiki/kubeconfig do not exist; `kontiki up` makes a cluster and one with it",
    )
}

/// # Errors
/// Names the file, and the context, cluster or user that is missing in it.
pub fn load(path: &Path, context: Option<&str>) -> Result<Connection> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, path.parent().unwrap_or(Path::new(".")), context)
        .with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str, dir: &Path, context: Option<&str>) -> Result<Connection> {
    let config: Config = serde_saphyr::from_str(text).context("not a kubeconfig")?;
    let wanted = context.unwrap_or(&config.current_context);
    let entry = config
        .contexts
        .iter()
        .find(|c| c.name == wanted)
        .with_context(|| format!("there is no context {wanted:?}"))?;
    let cluster = config
        .clusters
        .iter()
        .find(|c| c.name == entry.context.cluster)
        .with_context(|| format!("there is no cluster {:?}", entry.context.cluster))?;
    let user = config
        .users
        .iter()
        .find(|u| u.name == entry.context.user)
        .with_context(|| format!("there is no user {:?}", entry.context.user))?;

    let (cluster, user) = (&cluster.cluster, &user.user);
    let Some(server) = cluster.server.strip_prefix("https://") else {
        bail!("server {:?} does not begin with https://", cluster.server);
    };
    let server = server.trim_end_matches('/');
    let server = if server.contains(':') { server.to_string() } else { format!("{server}:443") };
    let ca_pem =
        pem(dir, cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref())?
            .context("the cluster has no certificate-authority")?;
    let certificate = pem(dir, user.client_certificate_data.as_deref(), user.client_certificate.as_deref())?;
    let key = pem(dir, user.client_key_data.as_deref(), user.client_key.as_deref())?;
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => pem(dir, None, Some(file))?.map(|token| token.trim().to_string()),
        (None, None) => None,
    };
    Ok(Connection {
        server,
        ca_pem,
        identity: certificate.zip(key),
        token,
        namespace: match entry.context.namespace.as_str() {
            "" => "default".into(),
            namespace => namespace.into(),
        },
    })
}

/// Inline data wins over a file, as in kubectl; a relative path counts from the kubeconfig.
fn pem(dir: &Path, data: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    if let Some(data) = data {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .context("certificate or key data is not base64")?;
        return Ok(Some(String::from_utf8(bytes).context("certificate or key data is not PEM")?));
    }
    let Some(file) = file else { return Ok(None) };
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts:
- name: here
  context: {cluster: c, user: u, namespace: team}
clusters:
- name: c
  cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Q0E=}
users:
- name: u
  user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}
";

    #[test]
    fn the_current_context_is_followed() {
        let connection = parse(TEXT, Path::new("."), None).unwrap();
        assert_eq!(connection.server, "127.0.0.1:6443");
        assert_eq!(connection.ca_pem, "CA");
        assert_eq!(connection.identity, Some(("CERT".into(), "KEY".into())));
        assert_eq!(connection.namespace, "team");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, context, expected) in [
            (TEXT.to_string(), Some("there"), "no context \"there\""),
            (TEXT.replace("name: u", "name: v"), None, "no user \"u\""),
            (TEXT.replace("https://", "http://"), None, "https://"),
            (TEXT.replace("Q0E=", "?"), None, "base64"),
            ("[".to_string(), None, "not a kubeconfig"),
        ] {
            let error = format!("{:#}", parse(&text, Path::new("."), context).unwrap_err());
            assert!(error.contains(expected), "{error} has {expected}");
        }
    }
}

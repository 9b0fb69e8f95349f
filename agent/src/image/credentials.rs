//! Registry credentials out of `imagePullSecrets`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    /// base64 of `user:password`.
    auth: String,
}

/// The credentials a `.dockerconfigjson` or legacy `.dockercfg` document holds for an image, most specific first.
/// A document that cannot be read gives none: other secrets may still do.
pub fn for_image(document: &[u8], registry: &str, repository: &str) -> Vec<RegistryAuth> {
    let auths = serde_json::from_slice::<DockerConfig>(document)
        .map(|c| c.auths)
        .ok()
        .filter(|auths| !auths.is_empty())
        .or_else(|| serde_json::from_slice::<BTreeMap<String, Auth>>(document).ok())
        .unwrap_or_default();
    let full = format!("{registry}/{repository}");
    let mut found = auths
        .into_iter()
        .filter_map(|(key, auth)| {
            let scope = normalize(&key);
            let fits = full == scope || full.starts_with(&format!("{scope}/"));
            fits.then_some((scope.len(), login(&auth)?))
        })
        .collect::<Vec<_>>();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// `https://index.docker.io/v1/` is what people write for Docker Hub.
fn normalize(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.into(),
    }
}

fn login(auth: &Auth) -> Option<RegistryAuth> {
    if !auth.username.is_empty() {
        return Some(RegistryAuth::Basic(auth.username.clone(), auth.password.clone()));
    }
    let text = String::from_utf8(STANDARD.decode(auth.auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(RegistryAuth::Basic(user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, registry: &str, repository: &str, expected: usize) {
        let document = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
        let found = for_image(document.as_bytes(), registry, repository);
        assert_eq!(found.len(), expected, "{key}");
        if expected == 1 {
            assert_eq!(found[0], RegistryAuth::Basic("u".into(), "p".into()));
        }
    }

    #[test]
    fn a_key_is_a_registry_or_a_path_in_it() {
        check("https://index.docker.io/v1/", "docker.io", "library/busybox", 1);
        check("127.0.0.1:5000", "127.0.0.1:5000", "a", 1);
        check("127.0.0.1:5000/team", "127.0.0.1:5000", "team/a", 1);
        check("127.0.0.1:5000/team", "127.0.0.1:5000", "teams/a", 0);
        check("other", "127.0.0.1:5000", "a", 0);
    }
}

//! A pod's volumes on the node: made before its containers start, refreshed while they run.
//!
//! emptyDir (disk or memory), hostPath, configMap, secret, downwardAPI and projected (token included). Others are refused
//! with a message that says so. Secrets and tokens are kept on a tmpfs.

pub mod host;
pub mod token;
pub mod writer;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume};
use kontiki_proto::Status;
use kontiki_proto::quantity::Quantity;
use nix::mount::{MsFlags, mount};

use crate::pod::dirs::PodDir;
use crate::pod::env::{Sources, field_value, resource_value};
use crate::pod::model::namespace;
use crate::pod::objects::Objects;
use crate::pod::sandbox::is_mount_point;
use token::Tokens;
use writer::{File, Files};

/// What volumes are made from.
pub struct Sourcing<'a> {
    pub pod: &'a Pod,
    pub dir: &'a PodDir,
    pub objects: &'a Objects,
    pub tokens: &'a Tokens,
    /// For the downward API.
    pub fields: &'a Sources,
}

#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub struct VolumeError {
    pub volume: String,
    pub why: String,
}

/// Makes or refreshes all volumes, and returns where each is. The first that fails is the error; the others are made.
pub async fn make(from: &Sourcing<'_>) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut paths = BTreeMap::new();
    let mut failed = None;
    for volume in from.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        match one(from, volume).await {
            Ok(path) => {
                paths.insert(volume.name.clone(), path);
            }
            Err(why) => {
                failed.get_or_insert(VolumeError { volume: volume.name.clone(), why });
            }
        }
    }
    failed.map_or(Ok(paths), Err)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn one(from: &Sourcing<'_>, volume: &Volume) -> Result<PathBuf, String> {
    let group = from.pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group);
    let group = group.and_then(|g| u32::try_from(g).ok());
    if let Some(host) = &volume.host_path {
        return host::check(&host.path, host.type_.as_deref().unwrap_or_default());
    }
    if let Some(empty) = &volume.empty_dir {
        let path = from.dir.volumes().join(&volume.name);
        let memory = empty.medium.as_deref() == Some("Memory");
        let size = empty.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map(Quantity::value);
        empty_dir(&path, memory, size, group).map_err(text)?;
        return Ok(path);
    }
    let secret_path = from.dir.secrets().join(&volume.name);
    let (path, files) = if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let mode = mode(source.default_mode);
        let path = from.dir.volumes().join(&volume.name);
        let map = from.objects.config_map(namespace(from.pod), &source.name).await;
        let Some(map) = standing(map, &path)? else { return Ok(path) };
        (path, config_map(map, &source.name, source.items.as_deref(), mode, optional)?)
    } else if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        let name = source.secret_name.clone().unwrap_or_default();
        let read = from.objects.secret(namespace(from.pod), &name).await;
        let Some(found) = standing(read, &secret_path)? else { return Ok(secret_path) };
        (secret_path, secret(found, &name, source.items.as_deref(), mode(source.default_mode), optional)?)
    } else if let Some(source) = &volume.downward_api {
        let path = from.dir.volumes().join(&volume.name);
        (path, downward(from, source.items.as_deref().unwrap_or_default(), mode(source.default_mode))?)
    } else if let Some(source) = &volume.projected {
        let mut files = Files::new();
        let mode = mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(p) = &part.config_map {
                let read = from.objects.config_map(namespace(from.pod), &p.name).await;
                let Some(map) = standing(read, &secret_path)? else { return Ok(secret_path) };
                files.extend(config_map(map, &p.name, p.items.as_deref(), mode, p.optional == Some(true))?);
            } else if let Some(p) = &part.secret {
                let read = from.objects.secret(namespace(from.pod), &p.name).await;
                let Some(found) = standing(read, &secret_path)? else { return Ok(secret_path) };
                files.extend(secret(found, &p.name, p.items.as_deref(), mode, p.optional == Some(true))?);
            } else if let Some(p) = &part.downward_api {
                files.extend(downward(from, p.items.as_deref().unwrap_or_default(), mode)?);
            } else if let Some(p) = &part.service_account_token {
                let got = from.tokens.token(from.pod, p).await;
                let Some(token) = standing(got, &secret_path)? else { return Ok(secret_path) };
                // Only its reader needs it; without an fsGroup that may be any user of the pod.
                let mode = if group.is_some() { 0o600 } else { 0o644 };
                files.insert(p.path.clone(), File { content: token.into_bytes(), mode });
            } else {
                return Err("a source of this projected volume is not supported by this node".into());
            }
        }
        (secret_path, files)
    } else {
        return Err("this kind of volume is not supported by this node".into());
    };
    if path.starts_with(from.dir.secrets()) {
        secret_file_system(&from.dir.secrets()).map_err(text)?;
    }
    tokio::task::spawn_blocking({
        let path = path.clone();
        move || writer::write(&path, &files, group)
    })
    .await
    .map_err(text)?
    .map_err(text)?;
    Ok(path)
}

/// `None` means: the API does not answer, but the volume has been written before and goes on serving.
fn standing<T>(read: Result<T, Status>, path: &Path) -> Result<Option<T>, String> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.is_retriable() && path.join("..data").exists() => Ok(None),
        Err(status) => Err(status.message),
    }
}

fn mode(given: Option<i32>) -> u32 {
    given.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777
}

fn secret_file_system(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    if !is_mount_point(path) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0755,size=64m"))?;
    }
    Ok(())
}

fn empty_dir(path: &Path, memory: bool, size: Option<i64>, group: Option<u32>) -> io::Result<()> {
    let fresh = !path.exists();
    std::fs::create_dir_all(path)?;
    if memory && !is_mount_point(path) {
        let size = size.map(|s| format!(",size={s}")).unwrap_or_default();
        let options = format!("mode=0777{size}");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )?;
    }
    if fresh {
        // New files get the directory's group where the pod has one.
        let bits = if group.is_some() { 0o2777 } else { 0o777 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits))?;
        if group.is_some() {
            chown(path, None, group)?;
        }
    }
    Ok(())
}

fn config_map(
    map: Option<ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Files, String> {
    let missing = map.is_none();
    let map = map.unwrap_or_default();
    let data = map
        .data
        .into_iter()
        .flatten()
        .map(|(k, v)| (k, v.into_bytes()))
        .chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0)))
        .collect();
    if missing && !optional {
        return Err(format!("configmap \"{name}\" not found"));
    }
    project(data, items, mode, optional, &format!("configmap {name}"))
}

fn secret(
    found: Option<Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Files, String> {
    if found.is_none() && !optional {
        return Err(format!("secret \"{name}\" not found"));
    }
    let data = found.unwrap_or_default().data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect();
    project(data, items, mode, optional, &format!("secret {name}"))
}

fn project(
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default: u32,
    optional: bool,
    what: &str,
) -> Result<Files, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.into_iter().map(|(k, content)| (k, File { content, mode: default })).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.remove(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(default, |m| mode(Some(m)));
                files.insert(item.path.clone(), File { content, mode });
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent key: {}", item.key)),
        }
    }
    Ok(files)
}

fn downward(from: &Sourcing, items: &[DownwardAPIVolumeFile], default: u32) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let content = if let Some(field) = &item.field_ref {
            field_value(from.pod, from.fields, &field.field_path)?
        } else if let Some(resource) = &item.resource_field_ref {
            let own = from.pod.spec.as_ref().and_then(|s| s.containers.first());
            let own = own.ok_or("the pod has no containers")?;
            resource_value(from.pod, own, resource, &from.fields.allocatable)?
        } else {
            return Err(format!("the file {} has no source", item.path));
        };
        let mode = item.mode.map_or(default, |m| mode(Some(m)));
        files.insert(item.path.clone(), File { content: content.into_bytes(), mode });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Option<ConfigMap> {
        let data = pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        Some(ConfigMap { data: Some(data), ..ConfigMap::default() })
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode }
    }

    #[test]
    fn items_choose_keys_and_say_where_they_go() {
        let items = [item("a", "x/y", Some(0o400))];
        let files = config_map(map(&[("a", "1"), ("b", "2")]), "m", Some(&items), 0o644, false).unwrap();
        assert_eq!(files, Files::from([("x/y".into(), File { content: b"1".to_vec(), mode: 0o400 })]));
        let all = config_map(map(&[("a", "1"), ("b", "2")]), "m", None, 0o644, false).unwrap();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_is_missing_is_an_error_unless_it_is_optional() {
        assert_eq!(config_map(None, "m", None, 0, false).unwrap_err(), "configmap \"m\" not found");
        assert!(config_map(None, "m", None, 0, true).unwrap().is_empty());
        let items = [item("z", "z", None)];
        assert_eq!(
            config_map(map(&[]), "m", Some(&items), 0, false).unwrap_err(),
            "configmap m references non-existent key: z"
        );
    }
}

//! Who a container runs as: the pod's wishes, the image's, and the image's own user database.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use containerd_client::types::Mount;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::runtime::spec::User;

/// The directories a container's root file system is laid out of, uppermost first.
#[derive(Clone, Debug, Default)]
pub struct Layers(Vec<PathBuf>);

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_IN_ROOT: u64 = 0x10;

impl Layers {
    pub fn of(mounts: &[Mount]) -> Layers {
        let mut dirs = Vec::new();
        for mount in mounts {
            if mount.r#type == "bind" {
                dirs.push(mount.source.clone().into());
            }
            let option = |name: &str| mount.options.iter().find_map(|o| o.strip_prefix(name));
            dirs.extend(option("upperdir=").map(PathBuf::from));
            dirs.extend(option("lowerdir=").into_iter().flat_map(|l| l.split(':')).map(PathBuf::from));
        }
        Layers(dirs)
    }

    /// A small file of the image. Links are resolved within the layer, so that an image cannot make the agent read the
    /// node's files.
    fn read(&self, path: &str) -> Option<String> {
        self.0.iter().find_map(|dir| {
            let root = std::fs::File::open(dir).ok()?;
            let name = std::ffi::CString::new(path).ok()?;
            let how = OpenHow {
                flags: u64::try_from(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK).ok()?,
                mode: 0,
                resolve: RESOLVE_IN_ROOT,
            };
            // SAFETY: all pointers are valid for the call, and the size is that of the structure.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    root.as_raw_fd(),
                    name.as_ptr(),
                    &raw const how,
                    std::mem::size_of::<OpenHow>(),
                )
            };
            let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
            // SAFETY: the kernel has just given us this descriptor.
            let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let mut text = String::new();
            file.take(1 << 20).read_to_string(&mut text).ok()?;
            Some(text)
        })
    }
}

/// A line of passwd: name, uid, primary gid.
fn users(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let fields = line.split(':').collect::<Vec<_>>();
        Some((*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}

/// A line of group: name, gid, members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let fields = line.split(':').collect::<Vec<_>>();
        let members = fields.get(3).map(|m| m.split(',').collect()).unwrap_or_default();
        Some((*fields.first()?, fields.get(2)?.parse().ok()?, members))
    })
}

/// The container's user. The error is what `CreateContainerConfigError` says.
pub fn resolve(spec: &PodSpec, c: &Container, image_user: &str, layers: &Layers) -> Result<User, String> {
    let passwd = layers.read("etc/passwd").unwrap_or_default();
    let group = layers.read("etc/group").unwrap_or_default();
    decide(spec, c, image_user, &passwd, &group)
}

fn decide(
    spec: &PodSpec,
    c: &Container,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, String> {
    let pod = spec.security_context.as_ref();
    let own = c.security_context.as_ref();
    let id = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok());
    let wanted_uid = id(own.and_then(|s| s.run_as_user).or(pod.and_then(|s| s.run_as_user)));
    let wanted_gid = id(own.and_then(|s| s.run_as_group).or(pod.and_then(|s| s.run_as_group)));
    let non_root = own.and_then(|s| s.run_as_non_root).or(pod.and_then(|s| s.run_as_non_root)) == Some(true);

    let (image_name, image_group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let uid = match wanted_uid {
        Some(uid) => uid,
        None if image_name.is_empty() => 0,
        None => match image_name.parse() {
            Ok(uid) => uid,
            Err(_) if non_root => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({image_name}), cannot verify user is non-root"
                ));
            }
            Err(_) => users(passwd)
                .find(|(name, ..)| *name == image_name)
                .map(|(_, uid, _)| uid)
                .ok_or_else(|| format!("the image's user {image_name} is not in its /etc/passwd"))?,
        },
    };
    if non_root && uid == 0 {
        return Err(if wanted_uid.is_some() {
            "container's runAsUser breaks non-root policy".into()
        } else {
            "container has runAsNonRoot and image will run as root".into()
        });
    }
    let entry = users(passwd).find(|(_, u, _)| *u == uid);
    let gid = match (wanted_gid, image_group.filter(|_| wanted_uid.is_none())) {
        (Some(gid), _) => gid,
        (None, Some(name)) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => groups(group)
                .find(|(n, ..)| *n == name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| format!("the image's group {name} is not in its /etc/group"))?,
        },
        (None, None) => entry.map_or(0, |(_, _, gid)| gid),
    };
    let mut additional_gids = pod
        .and_then(|s| s.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|g| u32::try_from(*g).ok())
        .chain(id(pod.and_then(|s| s.fs_group)))
        .collect::<Vec<_>>();
    let strict = pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    if let (Some((name, ..)), false) = (entry, strict) {
        additional_gids.extend(groups(group).filter(|(_, _, m)| m.contains(&name)).map(|(_, gid, _)| gid));
    }
    additional_gids.push(gid);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,other\n";

    fn check(pod: Value, own: Value, image: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let spec: PodSpec = serde_json::from_value(
            json!({"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]}),
        )
        .unwrap();
        decide(&spec, &spec.containers[0], image, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.additional_gids))
    }

    #[test]
    fn the_image_names_a_user_of_its_own_database() {
        assert_eq!(check(json!({}), json!({}), ""), Ok((0, 0, vec![0])));
        assert_eq!(check(json!({}), json!({}), "web"), Ok((33, 34, vec![34, 50])));
        assert_eq!(check(json!({}), json!({}), "web:logs"), Ok((33, 50, vec![50])));
        assert_eq!(check(json!({}), json!({}), "7:8"), Ok((7, 8, vec![8])));
        assert!(check(json!({}), json!({}), "nobody").is_err());
    }

    #[test]
    fn the_container_goes_before_the_pod_and_the_pod_before_the_image() {
        let pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 9, "supplementalGroups": [5]});
        assert_eq!(check(pod.clone(), json!({}), "web"), Ok((1, 2, vec![2, 5, 9])));
        assert_eq!(check(pod, json!({"runAsUser": 33}), ""), Ok((33, 2, vec![2, 5, 9, 50])));
    }

    #[test]
    fn non_root_is_verified() {
        let non_root = json!({"runAsNonRoot": true});
        assert!(check(non_root.clone(), json!({}), "").unwrap_err().contains("run as root"));
        assert!(check(non_root.clone(), json!({}), "web").unwrap_err().contains("non-numeric user"));
        assert!(check(non_root.clone(), json!({"runAsUser": 0}), "").is_err());
        assert!(check(non_root, json!({}), "33").is_ok());
    }
}

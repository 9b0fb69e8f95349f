//! Files of a volume, replaced all together: a reader sees the old set or the new, never a mixture.
//!
//! `..data` is a link to a directory with the files, and each visible name a link through it. A new set goes into a new
//! directory; renaming a new `..data` over the old one is the one step that readers notice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// By path within the volume; no path is absolute or goes up.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Makes the volume hold exactly these files. `group` becomes their owner group, which can read them. Returns whether
/// anything changed.
pub fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || path.is_empty() {
            let why = format!("{path} does not stay within the volume");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
    let current = std::fs::read_link(dir.join(DATA)).ok();
    let same =
        current.as_ref().is_some_and(|c| read(&dir.join(c)).is_ok_and(|old| old == with_group(files, group)));
    if !same {
        let name = format!("..{}", uuid::Uuid::new_v4().simple());
        let fresh = dir.join(&name);
        std::fs::create_dir(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
        for (path, file) in &with_group(files, group) {
            let target = fresh.join(path);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&target, &file.content)?;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
            if group.is_some() {
                chown(&target, None, group)?;
            }
        }
        let link = dir.join("..data_tmp");
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&name, &link)?;
        std::fs::rename(&link, dir.join(DATA))?;
    }
    tidy(dir, files)?;
    Ok(!same)
}

fn with_group(files: &Files, group: Option<u32>) -> Files {
    let readable = if group.is_some() { 0o040 } else { 0 };
    files
        .iter()
        .map(|(p, f)| (p.clone(), File { content: f.content.clone(), mode: f.mode | readable }))
        .collect()
}

/// Visible links as wanted, and no directory but the current one.
fn tidy(dir: &Path, files: &Files) -> io::Result<()> {
    let current = std::fs::read_link(dir.join(DATA))?;
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_string();
    let visible = files.keys().map(first).collect::<BTreeSet<_>>();
    for name in &visible {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text == DATA || name == current.as_os_str() || visible.contains(text.as_ref()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read(dir: &Path) -> io::Result<Files> {
    fn walk(base: &Path, at: &Path, files: &mut Files) -> io::Result<()> {
        for entry in std::fs::read_dir(at)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(base, &path, files)?;
            } else {
                let name = path.strip_prefix(base).map_err(io::Error::other)?.to_string_lossy().into_owned();
                let mode = std::fs::metadata(&path)?.permissions().mode() & 0o7777;
                files.insert(name, File { content: std::fs::read(&path)?, mode });
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    walk(dir, dir, &mut files)?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(p, c)| ((*p).to_string(), File { content: c.as_bytes().to_vec(), mode: 0o644 }))
            .collect()
    }

    #[test]
    fn a_new_set_replaces_the_old_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("v");
        assert!(write(&dir, &files(&[("a", "1"), ("sub/b", "2"), ("c", "3")]), None).unwrap());
        assert!(!write(&dir, &files(&[("a", "1"), ("sub/b", "2"), ("c", "3")]), None).unwrap());
        let open = std::fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &files(&[("a", "9"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "9");
        assert_eq!(std::fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert!(!dir.join("c").exists() && !dir.join(open).exists());
    }

    #[test]
    fn a_path_that_leaves_the_volume_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", ""] {
            assert!(write(root.path(), &files(&[(path, "")]), None).is_err(), "{path}");
        }
    }
}

//! hostPath: a path of the node, checked or made as its type says; and sub-paths of any volume.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// The path, once it is what the type asks for.
pub fn check(path: &str, kind: &str) -> Result<PathBuf, String> {
    let target = PathBuf::from(path);
    let make_error = |e: io::Error| format!("hostPath {path} cannot be made: {e}");
    match kind {
        "DirectoryOrCreate" => std::fs::create_dir_all(&target).map_err(make_error)?,
        "FileOrCreate" if !target.exists() => {
            std::fs::File::create(&target).map_err(make_error)?;
        }
        // Without a type nothing is checked, but a bind mount needs something to bind.
        "" if !target.exists() => std::fs::create_dir_all(&target).map_err(make_error)?,
        _ => {}
    }
    let found = std::fs::metadata(&target)
        .map_err(|_| format!("hostPath type check failed: {path} is not {}", article(kind)))?
        .file_type();
    let fits = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        other => return Err(format!("hostPath type {other} is not known")),
    };
    if fits {
        Ok(target)
    } else {
        Err(format!("hostPath type check failed: {path} is not {}", article(kind)))
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        _ => "there",
    }
}

/// A path within a volume, made as a directory where it is missing. Links that lead out of the volume are refused.
pub fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let plain = Path::new(sub).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(format!("subPath \"{sub}\" must stay within the volume"));
    }
    let base = volume.canonicalize().map_err(|e| format!("volume is not there: {e}"))?;
    let wanted = base.join(sub);
    let mut at = base.clone();
    for part in Path::new(sub).components() {
        at.push(part);
        if let Ok(real) = at.canonicalize() {
            if !real.starts_with(&base) {
                return Err(format!("subPath \"{sub}\" leads out of the volume"));
            }
        } else {
            std::fs::create_dir(&at).map_err(|e| format!("subPath \"{sub}\" cannot be made: {e}"))?;
        }
    }
    wanted.canonicalize().map_err(|e| format!("subPath \"{sub}\" is not there: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let root = tempfile::tempdir().unwrap();
        let path = |n: &str| root.path().join(n).to_string_lossy().into_owned();
        assert!(check(&path("d"), "Directory").is_err());
        assert!(check(&path("d"), "DirectoryOrCreate").is_ok());
        assert!(check(&path("d"), "Directory").is_ok());
        assert!(check(&path("d"), "File").is_err());
        assert!(check(&path("f"), "FileOrCreate").is_ok());
        assert!(check(&path("f"), "Socket").is_err());
        assert!(check(&path("x"), "").is_ok());
    }

    #[test]
    fn a_sub_path_stays_within() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink(root.path(), volume.join("out")).unwrap();
        assert!(sub_path(&volume, "a/b").unwrap().is_dir());
        assert!(sub_path(&volume, "out/x").is_err());
        assert!(sub_path(&volume, "../x").is_err());
    }
}

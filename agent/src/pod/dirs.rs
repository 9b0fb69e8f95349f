//! Where a pod's things are on this node's disk, and the records of its containers' attempts.
//!
//! ```text
//!  pods/<uid>/pod.json                 the object as it was last seen: the node can go on without the API
//!            /<container>/<n>.json     attempt n
//!            /<container>/<n>.log      what it wrote
//!            /<container>/<n>.message  its termination message
//!            /_ns /_etc /_shm          namespaces, /etc files, shared memory
//!            /_volumes /_secrets       volumes; secrets on a tmpfs
//! ```
//! A leading underscore cannot be part of a container's name.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::model::Attempt;

#[derive(Clone, Debug)]
pub struct PodDir(PathBuf);

impl PodDir {
    pub fn new(root: &Path, uid: &str) -> PodDir {
        PodDir(root.join("pods").join(uid))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn namespace(&self, kind: &str) -> PathBuf {
        self.0.join("_ns").join(kind)
    }

    pub fn etc(&self, file: &str) -> PathBuf {
        self.0.join("_etc").join(file)
    }

    pub fn shm(&self) -> PathBuf {
        self.0.join("_shm")
    }

    pub fn volumes(&self) -> PathBuf {
        self.0.join("_volumes")
    }

    pub fn secrets(&self) -> PathBuf {
        self.0.join("_secrets")
    }

    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join(container).join(format!("{attempt}.log"))
    }

    pub fn message(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join(container).join(format!("{attempt}.message"))
    }

    pub fn stdin(&self, container: &str) -> PathBuf {
        self.0.join(container).join("stdin")
    }

    fn record(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join(container).join(format!("{attempt}.json"))
    }

    pub fn save_pod(&self, pod: &Pod) -> io::Result<()> {
        write(&self.0.join("pod.json"), &serde_json::to_vec(pod)?)
    }

    pub fn load_pod(&self) -> io::Result<Pod> {
        Ok(serde_json::from_slice(&std::fs::read(self.0.join("pod.json"))?)?)
    }

    pub fn save(&self, container: &str, attempt: &Attempt) -> io::Result<()> {
        write(&self.record(container, attempt.number), &serde_json::to_vec(attempt)?)
    }

    /// Forgets an attempt that never ran.
    pub fn discard(&self, container: &str, attempt: u32) {
        for path in [self.record(container, attempt), self.message(container, attempt)] {
            // What is not there need not be removed.
            let _ = std::fs::remove_file(path);
        }
    }

    /// The newest attempt and the one before. Older ones, and their logs, are removed.
    pub fn attempts(&self, container: &str) -> (Option<Attempt>, Option<Attempt>) {
        let mut numbers = self.numbers(container);
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        for old in numbers.iter().skip(2) {
            self.discard(container, *old);
            let log = self.log(container, *old);
            let _ = std::fs::remove_file(log.with_extension("log.1"));
            let _ = std::fs::remove_file(log);
        }
        let mut load = numbers.iter().take(2).map(|n| self.load(container, *n));
        (load.next().flatten(), load.next().flatten())
    }

    fn load(&self, container: &str, number: u32) -> Option<Attempt> {
        let path = self.record(container, number);
        let read = std::fs::read(&path).and_then(|b| Ok(serde_json::from_slice(&b)?));
        match read {
            Ok(attempt) => Some(attempt),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a record of a container is not readable");
                None
            }
        }
    }

    fn numbers(&self, container: &str) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(self.0.join(container)) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect()
    }
}

/// Replaces a file as a whole: a reader, or the next start, sees the old content or the new.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// The uids of the pods that have a directory.
pub fn known(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("pods")) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::attempt;
    use super::*;

    #[test]
    fn the_newest_two_attempts_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = PodDir::new(root.path(), "u");
        for number in [0, 1, 2, 10] {
            dir.save("c", &attempt(number, 0, 0, None)).unwrap();
            std::fs::write(dir.log("c", number), "x").unwrap();
        }
        let (last, previous) = dir.attempts("c");
        assert_eq!((last.unwrap().number, previous.unwrap().number), (10, 2));
        assert!(dir.log("c", 2).exists() && !dir.log("c", 1).exists());
        assert_eq!(dir.attempts("other"), (None, None));
    }
}

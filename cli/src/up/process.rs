//! Processes that outlive the command that started them, found again by a file that names them beyond doubt.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process of the cluster: `RUN/NAME.pid` holds its id and its start time, which together are unique.
pub struct Daemon<'a> {
    pub name: &'a str,
    pub run_dir: &'a Path,
    pub log_dir: &'a Path,
}

impl Daemon<'_> {
    fn pid_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.pid", self.name))
    }

    pub fn log_file(&self) -> PathBuf {
        self.log_dir.join(format!("{}.log", self.name))
    }

    /// The id of the running process, if it is the one that was started.
    pub fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_time(pid)?.to_string() == started).then_some(pid)
    }

    /// Starts the command unless it runs already, away from this terminal, its output in the log file.
    /// Returns whether it was started.
    ///
    /// # Errors
    /// The program is missing, or a directory cannot be written.
    pub fn start(&self, mut command: Command) -> Result<bool> {
        if self.pid().is_some() {
            return Ok(false);
        }
        let log_path = self.log_file();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid().map_err(std::io::Error::from)?;
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let pid = i32::try_from(child.id()).context("a process id beyond 31 bits")?;
        let started = start_time(pid).unwrap_or_default();
        fs::write(self.pid_file(), format!("{pid} {started}\n"))?;
        Ok(true)
    }

    /// Asks the process to end, waits, then insists. Returns whether it ran.
    pub fn stop(&self, patience: Duration) -> bool {
        let Some(pid) = self.pid() else { return false };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if !wait_gone(pid, patience) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            wait_gone(pid, Duration::from_secs(5));
        }
        let _ = fs::remove_file(self.pid_file());
        true
    }

    /// The end of the log, for an error message.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Field 22 of `/proc/PID/stat`; `None` for a process that is gone or a zombie.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits until a process has ended, or the time is over.
pub fn wait_gone(pid: i32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        // A child of ours has to be reaped before it is gone.
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        if start_time(pid).is_none() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Ids of all processes whose command line names the path, this one left out.
pub fn processes_naming(path: &Path) -> Vec<i32> {
    let needle = path.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            if name == own || !name.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let named = line.split(|&byte| byte == 0).any(|argument| {
                String::from_utf8_lossy(argument).match_indices(&needle).any(|(at, _)| {
                    // `/x/.kontiki` must not match `/x/.kontiki2`.
                    matches!(argument.get(at + needle.len()), None | Some(b'/' | b'?' | b'='))
                })
            });
            named.then(|| name.parse().ok())?
        })
        .collect()
}

/// Runs a program to its end.
///
/// # Errors
/// What it wrote to its standard error, when it fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_started_once_found_again_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon { name: "sleeper", run_dir: dir.path(), log_dir: dir.path() };
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("60");
            command
        };
        assert!(daemon.start(sleep()).unwrap());
        assert!(!daemon.start(sleep()).unwrap());
        assert!(daemon.pid().is_some());
        assert!(daemon.stop(Duration::from_secs(2)));
        assert_eq!(daemon.pid(), None);
    }

    #[test]
    fn a_recycled_process_id_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon { name: "gone", run_dir: dir.path(), log_dir: dir.path() };
        fs::write(dir.path().join("gone.pid"), format!("{} 1\n", std::process::id())).unwrap();
        assert_eq!(daemon.pid(), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run("kontiki-no-such-program", &[]).unwrap_err().to_string();
        assert!(error.contains("kontiki-no-such-program"), "{error}");
    }
}

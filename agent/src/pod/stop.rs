//! Ending a container, and writing down how it ended.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::check::Place;
use super::dirs::PodDir;
use super::hooks;
use super::model::{Attempt, Exit};
use crate::ctx::Ctx;
use crate::runtime::{RuntimeError, cgroup};

/// Runs the preStop hook, sends the stop signal, and kills when the grace is over. Returns once the process has ended,
/// or containerd does not answer.
pub async fn stop(
    ctx: &Arc<Ctx>,
    pod: &Pod,
    c: &Container,
    place: &Place,
    grace: Duration,
    why: &str,
) -> Result<(), RuntimeError> {
    let id = &place.container_id;
    ctx.events.pod(pod, Some(&c.name), "Normal", "Killing", why.into());
    let left = hooks::pre_stop(ctx, pod, c, place, grace).await;
    if !left.is_zero() {
        ctx.containerd.kill(id, "", signal(ctx, c).await, false).await?;
        match tokio::time::timeout(left, ctx.containerd.wait(id, "")).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if error.is_not_found() => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    ctx.containerd.kill(id, "", libc::SIGKILL, true).await?;
    match tokio::time::timeout(Duration::from_secs(10), ctx.containerd.wait(id, "")).await {
        Ok(Err(error)) if !error.is_not_found() => Err(error),
        Ok(_) => Ok(()),
        Err(_) => {
            Err(RuntimeError::new("killing a container", format!("container {id} did not end within 10 s")))
        }
    }
}

/// The container's stop signal, or its image's, or SIGTERM.
async fn signal(ctx: &Arc<Ctx>, c: &Container) -> i32 {
    let own = c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    let name = match own {
        Some(name) => name,
        None => match crate::image::find(&ctx.containerd, c.image.as_deref().unwrap_or_default()).await {
            Ok(Some(image)) => image.config.stop_signal,
            _ => String::new(),
        },
    };
    parse_signal(&name).unwrap_or(libc::SIGTERM)
}

fn parse_signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let full = if name.starts_with("SIG") { name.to_string() } else { format!("SIG{name}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// How a stopped task ended; to be read before the task is deleted, as its cgroup goes with it.
pub fn exit(
    dir: &PodDir,
    c: &Container,
    cgroup: &str,
    attempt: &Attempt,
    code: u32,
    at: Option<Timestamp>,
) -> Exit {
    let code = i32::try_from(code).unwrap_or(255);
    // Every container of a pod hears of an OOM; the truth is in the container's own counter.
    let oom = code == 137 && cgroup::oom_kills(cgroup) > 0;
    let reason = match code {
        _ if oom => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Exit {
        code,
        at: at.unwrap_or_else(Timestamp::now),
        reason: reason.into(),
        message: message(dir, c, attempt.number, code != 0),
    }
}

/// A container whose task is gone: its shim was killed, or the machine was restarted.
pub fn lost() -> Exit {
    Exit {
        code: 137,
        at: Timestamp::now(),
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
    }
}

/// What the container left as its termination message, or the end of its log where it asks for that.
fn message(dir: &PodDir, c: &Container, number: u32, failed: bool) -> String {
    let text = tail(&dir.message(&c.name, number), 4096);
    if !text.is_empty() || !failed || c.termination_message_policy.as_deref() != Some("FallbackToLogsOnError")
    {
        return text;
    }
    let log = tail(&dir.log(&c.name, number), 8192);
    let lines = log.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).collect::<Vec<_>>();
    let last = lines[lines.len().saturating_sub(80)..].join("\n");
    let mut from = last.len().saturating_sub(2048);
    while !last.is_char_boundary(from) {
        from += 1;
    }
    last[from..].into()
}

fn tail(path: &std::path::Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut data = Vec::new();
        file.take(bytes).read_to_end(&mut data)?;
        Ok(data)
    };
    // A container that wrote nothing has no message.
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_or_number() {
        for (name, signal) in
            [("SIGQUIT", Some(3)), ("QUIT", Some(3)), ("9", Some(9)), ("", None), ("99", None)]
        {
            assert_eq!(parse_signal(name), signal, "{name}");
        }
    }

    #[test]
    fn a_failed_container_may_speak_through_its_log() {
        let root = tempfile::tempdir().unwrap();
        let dir = PodDir::new(root.path(), "u");
        super::super::dirs::write(&dir.log("c", 0), b"T stdout F one\nT stderr F two words\n").unwrap();
        let mut c = Container { name: "c".into(), ..Container::default() };
        assert_eq!(message(&dir, &c, 0, true), "");
        c.termination_message_policy = Some("FallbackToLogsOnError".into());
        assert_eq!(message(&dir, &c, 0, true), "one\ntwo words");
        assert_eq!(message(&dir, &c, 0, false), "");
        std::fs::write(dir.message("c", 0), "own").unwrap();
        assert_eq!(message(&dir, &c, 0, true), "own");
    }
}

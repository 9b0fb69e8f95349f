//! `kontiki exec`: a command in a container, with the terminal handed through.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::Args;
use kontiki_proto::{Status, pb};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ExitCode;
use super::logs::{container_of, pod_of};
use crate::session::Session;

/// Inputs on their way to the server; more keys than this wait in the terminal.
const PENDING: usize = 64;

#[derive(Args, Clone, Debug)]
pub struct ExecArgs {
    /// A pod, or a workload of which one pod is taken
    pod: String,
    #[arg(long, short)]
    container: Option<String>,
    /// Hand standard input through
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// The command, behind --
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// # Errors
/// [`ExitCode`] when the command failed; otherwise what the server or the node said.
pub async fn exec(session: &Session, args: ExecArgs) -> Result<()> {
    let pod = pod_of(session, &args.pod).await?;
    let container = container_of(&pod, args.container.as_deref())?;
    let is_terminal = std::io::stdin().is_terminal();
    let tty = args.tty && is_terminal;
    if args.tty && !is_terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let (sender, receiver) = mpsc::channel(PENDING);
    let start = pb::ExecStart {
        namespace: session.namespace.clone(),
        pod: pod["metadata"]["name"].as_str().unwrap_or_default().into(),
        container,
        command: args.command,
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        attach: false,
    };
    send(&sender, pb::exec_input::Input::Start(start)).await;

    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    if tty {
        resize(&sender).await;
        tokio::spawn(follow_size(sender.clone()));
    }
    if args.stdin {
        // A thread of its own: a blocked read of a terminal cannot be given up.
        let sender = sender.clone();
        std::thread::spawn(move || pump_stdin(&sender));
    }
    let reply = session.client.pod_streams().exec(ReceiverStream::new(receiver)).await;
    let mut output = reply.map_err(Status::from)?.into_inner();
    while let Some(message) = output.message().await.map_err(Status::from)? {
        match message.output {
            Some(pb::exec_output::Output::Stdout(data)) => show(&mut std::io::stdout().lock(), &data)?,
            Some(pb::exec_output::Output::Stderr(data)) => show(&mut std::io::stderr().lock(), &data)?,
            Some(pb::exec_output::Output::Status(document)) => return finished(&document),
            None => {}
        }
    }
    bail!("the stream ended before the command did; its fate is unknown")
}

fn show(out: &mut impl Write, data: &[u8]) -> Result<()> {
    out.write_all(data)?;
    out.flush()?;
    Ok(())
}

fn finished(document: &[u8]) -> Result<()> {
    let status: Status = serde_json::from_slice(document)?;
    if status.status == "Success" {
        return Ok(());
    }
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let code =
        causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
    match code {
        Some(code) => Err(ExitCode(code).into()),
        None => Err(status.into()),
    }
}

async fn send(sender: &mpsc::Sender<pb::ExecInput>, input: pb::exec_input::Input) {
    // Nobody listens any more once the command has ended, and then nobody needs to.
    let _ = sender.send(pb::ExecInput { input: Some(input) }).await;
}

async fn resize(sender: &mpsc::Sender<pb::ExecInput>) {
    if let Some((width, height)) = terminal_size() {
        send(sender, pb::exec_input::Input::Resize(pb::TerminalSize { width, height })).await;
    }
}

async fn follow_size(sender: mpsc::Sender<pb::ExecInput>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() && !sender.is_closed() {
        resize(&sender).await;
    }
}

fn pump_stdin(sender: &mpsc::Sender<pb::ExecInput>) {
    let mut buffer = vec![0; 32 * 1024];
    let mut stdin = std::io::stdin().lock();
    loop {
        let input = match stdin.read(&mut buffer) {
            Ok(0) | Err(_) => pb::exec_input::Input::StdinClosed(true),
            Ok(length) => pb::exec_input::Input::Stdin(Bytes::copy_from_slice(&buffer[..length])),
        };
        let is_end = matches!(input, pb::exec_input::Input::StdinClosed(_));
        if sender.blocking_send(pb::ExecInput { input: Some(input) }).is_err() || is_end {
            return;
        }
    }
}

/// Columns and rows of the terminal at standard input.
fn terminal_size() -> Option<(u32, u32)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills the structure it is given, which lives until it returns.
    let outcome = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (outcome == 0 && size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Every key goes to the container; the terminal is as before when this is dropped.
struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    fn enter() -> Result<RawTerminal> {
        let mut modes = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is valid for a termios, which is read only when the call has filled it.
        let before = unsafe {
            if libc::tcgetattr(libc::STDIN_FILENO, modes.as_mut_ptr()) != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            modes.assume_init()
        };
        let mut raw = before;
        // SAFETY: both calls get a valid termios of our own.
        let outcome = unsafe {
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw)
        };
        if outcome != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the modes are those the terminal had.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_commands_exit_code_becomes_ours() {
        let ended = |document: serde_json::Value| finished(document.to_string().as_bytes());
        assert!(ended(json!({ "status": "Success" })).is_ok());
        let failed = json!({ "status": "Failure", "reason": "NonZeroExitCode", "code": 500,
            "message": "command terminated with non-zero exit code",
            "details": { "causes": [{ "reason": "ExitCode", "message": "42" }] } });
        assert_eq!(ended(failed).unwrap_err().downcast_ref::<ExitCode>().map(|code| code.0), Some(42));
        let broken =
            json!({ "status": "Failure", "reason": "InternalError", "code": 500, "message": "no such file" });
        assert_eq!(ended(broken).unwrap_err().to_string(), "no such file");
    }
}

//! A command in a container, joined to whoever asked for it: bytes of its
//! streams, terminal sizes, and the status in which it ended, as upstream's
//! remote command protocols write it. How all this travels is the business of
//! the two transports, [`super::websocket`] and [`super::spdy`].

use std::io;
use std::time::Duration;

use api::error::Chain;
use bytes::Bytes;
use containers::runtime::{ExecRequest, ReadStream, RuntimeError, Session};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Pieces on the way in either direction.
const PIECES: usize = 16;
/// Bytes of one piece; the protocols' peers use the same.
const PIECE: usize = 32 << 10;
/// After the process has ended, how long its output may take to end: a child
/// that it left behind may hold it open.
const DRAIN: Duration = Duration::from_secs(10);

/// From the client.
pub(super) enum Input {
    /// Standard input.
    Stdin(Bytes),
    /// Its end.
    StdinEnd,
    /// Columns and rows of the client's terminal.
    Resize(u16, u16),
}

/// To the client.
pub(super) enum Output {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// The command is over; the last thing sent.
    Ended(Ended),
}

/// How a command ended.
pub(super) enum Ended {
    /// With this code.
    Exit(i32),
    /// It could not be run or its end is unknown.
    Failed(String),
}

impl Ended {
    /// As a `Status` object (protocol versions 4 and 5).
    pub(super) fn status(&self) -> Value {
        match self {
            Self::Exit(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!(
                    "command terminated with non-zero exit code: command terminated with exit code {code}"
                ),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {message}"),
                "details": {"causes": [{"message": message}]},
            }),
        }
    }

    /// As plain text, empty for success (older versions).
    pub(super) fn text(&self) -> String {
        match self {
            Self::Exit(0) => String::new(),
            _ => self.status()["message"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// What the client asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wants {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wants {
    /// From a query; `None` if no stream is asked for.
    pub(super) fn parse(query: &[(String, String)]) -> Option<Self> {
        let flag = |names: [&str; 2]| {
            let found = query.iter().find(|(name, _)| names.contains(&name.as_str()));
            found.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "true" | "True" | "TRUE"))
        };
        let tty = flag(["tty", "tty"]);
        let wants = Self {
            command: query.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect(),
            stdin: flag(["input", "stdin"]),
            stdout: flag(["output", "stdout"]),
            // A terminal has one output.
            stderr: flag(["error", "stderr"]) && !tty,
            tty,
        };
        (wants.stdin || wants.stdout || wants.stderr).then_some(wants)
    }

    pub(super) fn request(&self) -> ExecRequest {
        ExecRequest {
            command: self.command.clone(),
            tty: self.tty,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}

/// The container's end of a remote command.
pub(super) struct Remote {
    pub(super) input: mpsc::Receiver<Input>,
    pub(super) output: mpsc::Sender<Output>,
}

/// The transport's end.
pub(super) struct Transport {
    pub(super) input: mpsc::Sender<Input>,
    pub(super) output: mpsc::Receiver<Output>,
}

/// Both ends.
pub(super) fn pair() -> (Remote, Transport) {
    let (to_command, input) = mpsc::channel(PIECES);
    let (output, from_command) = mpsc::channel(PIECES);
    (Remote { input, output }, Transport { input: to_command, output: from_command })
}

/// Joins the two until the command ends or the client is gone.
pub(super) async fn run(session: Result<Session, RuntimeError>, remote: Remote) {
    let Remote { mut input, output } = remote;
    let Session { mut stdin, stdout, stderr, resize, exit } = match session {
        Ok(session) => session,
        Err(error) => {
            // Upstream wraps the cause twice; clients show the text as it is.
            let message = format!("Internal error occurred: error executing command in container: {}", Chain(&error));
            send(&output, Output::Ended(Ended::Failed(message))).await;
            return;
        }
    };
    let feed = async {
        while let Some(piece) = input.recv().await {
            match piece {
                Input::Stdin(bytes) => {
                    // A process that closed its input is not interested.
                    if let Some(pipe) = &mut stdin
                        && pipe.write_all(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Input::StdinEnd => {
                    if let Some(mut pipe) = stdin.take()
                        && let Err(error) = pipe.shutdown().await
                    {
                        tracing::debug!(err = %error, "closing a command's input failed");
                    }
                }
                Input::Resize(columns, rows) => {
                    // When sizes come faster than they are applied, later ones
                    // come again from the client's next change.
                    if let Err(error) = resize.try_send((columns, rows)) {
                        tracing::debug!(err = %error, "a terminal size was dropped");
                    }
                }
            }
        }
    };
    let outputs = async {
        tokio::join!(copy(stdout, &output, Output::Stdout), copy(stderr, &output, Output::Stderr));
    };
    let work = async {
        tokio::pin!(outputs);
        let mut drained = false;
        tokio::pin!(exit);
        let ended = loop {
            tokio::select! {
                ended = &mut exit => break ended,
                () = &mut outputs, if !drained => drained = true,
            }
        };
        if !drained && tokio::time::timeout(DRAIN, outputs).await.is_err() {
            tracing::debug!("a command left its output open");
        }
        let ended = ended.map_or_else(|_| Ended::Failed("the runtime lost the process".into()), Ended::Exit);
        send(&output, Output::Ended(ended)).await;
    };
    tokio::pin!(feed, work);
    tokio::select! {
        () = &mut work => {}
        // The transport is gone: nobody reads what would come.
        () = &mut feed => {
            if !output.is_closed() {
                work.await;
            }
        }
    }
}

async fn send(output: &mpsc::Sender<Output>, piece: Output) {
    if output.send(piece).await.is_err() {
        tracing::debug!("the client of a command is gone");
    }
}

async fn copy(stream: Option<ReadStream>, output: &mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return,
            Ok(length) => {
                if output.send(wrap(Bytes::copy_from_slice(&buffer[..length]))).await.is_err() {
                    return;
                }
            }
            // How a terminal says that its other side is closed.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A terminal size as clients send it.
pub(super) fn parse_size(bytes: &[u8]) -> Option<Input> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| value.get(name)?.as_u64().and_then(|side| u16::try_from(side).ok());
    Some(Input::Resize(side("Width")?, side("Height")?))
}

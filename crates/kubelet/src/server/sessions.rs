//! Commands in containers and connections to their ports: from the request to
//! the streams that carry them. How a stream is framed is not known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::error::Chain;
use api::types::api::core::v1::Pod;
use containers::runtime::{ContainerId, ContainerState};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::remote::{self, Wants};
use super::reply::{Body, Query, bytes, failed, text};
use super::upgrade::Upgrade;
use super::{Core, streams, websocket};
use crate::spec;

/// Longest a `/run` command may take.
const RUN_LIMIT: Duration = Duration::from_secs(120);

impl Core {
    /// `/run`: a command to its end.
    pub(super) async fn run(
        &self,
        query: &Query,
        pod: &Pod,
        container: &str,
    ) -> Result<Response<Body>, Response<Body>> {
        let id = self.running(pod, container).await?;
        let _awake = self.node.awake(spec::uid(pod));
        let command = query.iter().find(|(name, _)| name == "cmd").map_or("", |(_, value)| value.as_str());
        let command = command.split(' ').map(str::to_owned).collect();
        match self.node.runtime().exec_sync(&id, command, Some(RUN_LIMIT)).await {
            Ok(output) => Ok(bytes(StatusCode::OK, [output.stdout, output.stderr].concat().into())),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The running container of this name.
    async fn running(&self, pod: &Pod, container: &str) -> Result<ContainerId, Response<Body>> {
        let missing = || text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"));
        let id = self.node.container_id(pod, container, false).ok_or_else(missing)?;
        match self.node.runtime().container(&id).await {
            Ok(status) if matches!(status.state, ContainerState::Running { .. }) => Ok(id),
            _ => Err(missing()),
        }
    }

    /// `/exec` and `/attach`.
    pub(super) async fn command(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        query: &Query,
        pod: Arc<Pod>,
        container: &str,
        exec: bool,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(wants) = Wants::parse(query) else {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(text(StatusCode::BAD_REQUEST, message));
        };
        if exec && wants.command.is_empty() {
            return Err(text(StatusCode::BAD_REQUEST, "you must specify at least one command"));
        }
        let id = self.running(&pod, container).await?;
        let (response, kind) = Upgrade::for_command(request.headers())?;
        let upgrade = hyper::upgrade::on(&mut request);
        let awake = self.node.awake(spec::uid(&pod));
        let core = self.clone();
        self.upgraded("command", async move {
            let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            let (remote, transport) = remote::pair();
            let running = async {
                let request = wants.request();
                let runtime = core.node.runtime();
                let session = if exec { runtime.exec(&id, request).await } else { runtime.attach(&id, request).await };
                remote::run(session, remote).await;
            };
            let carrying = async {
                match kind {
                    Upgrade::WebSocket(protocol) => {
                        let socket = websocket::accept(io).await;
                        websocket::command(socket, protocol, &wants, transport).await.map_err(io::Error::other)
                    }
                    Upgrade::Spdy(protocol) => streams::command(io, protocol, &wants, transport).await,
                    Upgrade::Tunnel => Ok(()),
                }
            };
            let (result, ()) = tokio::join!(carrying, running);
            drop(awake);
            result
        });
        Ok(response)
    }

    /// `/portForward`.
    pub(super) async fn port_forward(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        query: &Query,
        pod: Arc<Pod>,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(sandbox) = self.node.sandbox(spec::uid(&pod)).await else {
            let message = format!("pod not found (\"{}\")", spec::full_name(&pod));
            return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
        };
        let (response, kind) = Upgrade::for_ports(request.headers())?;
        let ports = query
            .iter()
            .filter(|(name, _)| name == "port" || name == "ports")
            .flat_map(|(_, value)| value.split(','))
            .map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(port))
            .collect::<Result<Vec<u16>, _>>()
            .map_err(|port| text(StatusCode::BAD_REQUEST, format!("invalid port: {port}")))?;
        if ports.is_empty() && matches!(kind, Upgrade::WebSocket(_)) {
            return Err(text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let awake = self.node.awake(spec::uid(&pod));
        let node = self.node.clone();
        self.upgraded("port-forward", async move {
            let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            let pod_uid = spec::uid(&pod).to_owned();
            let connect = move |port: u16| {
                let (node, sandbox, pod_uid) = (node.clone(), sandbox.clone(), pod_uid.clone());
                async move {
                    node.runtime().port_forward(&sandbox, port).await.map_err(|error| {
                        format!("error forwarding port {port} to pod {pod_uid}, uid : {}", Chain(&error))
                    })
                }
            };
            let result = match kind {
                Upgrade::WebSocket(protocol) => {
                    let socket = websocket::accept(io).await;
                    websocket::ports(socket, protocol, &ports, connect).await.map_err(io::Error::other)
                }
                Upgrade::Spdy(_) => streams::ports(io, connect).await,
                Upgrade::Tunnel => {
                    let (inner, work) = websocket::tunnel(websocket::accept(io).await);
                    let (result, carried) = tokio::join!(streams::ports(inner, connect), work);
                    result.and(carried.map_err(io::Error::other))
                }
            };
            drop(awake);
            result
        });
        Ok(response)
    }

    /// Runs what follows an upgrade until it is done or the server ends.
    fn upgraded(&self, what: &'static str, work: impl Future<Output = io::Result<()>> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = work => if let Err(error) = result {
                    tracing::debug!(what, err = %Chain(&error), "a stream broke");
                }
            }
        });
    }
}

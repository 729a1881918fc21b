//! The proxy as it runs, against an API that says what the test says.

use super::held::holding;
use super::{Fixture, at, config};
use crate::hold::{Hold, HoldLimits, Holds};
use crate::service::ServiceProxy;
use crate::testnet::PATIENCE;
use bytes::Bytes;
use client::transport::{Body, Transport, TransportError};
use client::{Client, ObjectKey};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Watches by resource; each begins with nothing.
#[derive(Clone, Default)]
struct Api {
    watches: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Bytes>>>>,
    opened: watch::Sender<usize>,
}

impl Api {
    fn say(&self, resource: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.watches.lock().unwrap()[resource].send(line.into()).unwrap();
    }
}

impl Transport for Api {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let kind = match resource.as_str() {
            "services" => ("v1", "Service"),
            "nodes" => ("v1", "Node"),
            _ => ("discovery.k8s.io/v1", "EndpointSlice"),
        };
        self.watches.lock().unwrap().insert(resource.clone(), sender);
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        self.say(
            &resource,
            "BOOKMARK",
            &json!({
                "apiVersion": kind.0, "kind": kind.1,
                "metadata": {"resourceVersion": "1", "annotations": annotations},
            }),
        );
        self.opened.send_modify(|opened| *opened += 1);
        let stream = futures_util::stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<Bytes>| {
            let chunk = receiver.recv().await?;
            Some((Ok(Frame::data(chunk)), receiver))
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(stream));
        async move { Ok(http::Response::builder().status(200).body(body).unwrap()) }.boxed()
    }
}

async fn until(applied: &mut watch::Receiver<Arc<Holds>>, holds: &Holds) {
    let reached = applied.wait_for(|applied| **applied == *holds);
    tokio::time::timeout(PATIENCE, reached).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_proxy_holds_what_becomes_wanted_and_lets_go_when_there_is_an_endpoint() {
    let world = Fixture::new(2);
    let api = Api::default();
    let proxy = ServiceProxy::new(Client::new(api.clone()), config(&world.node)).unwrap();
    proxy.can_hold().unwrap();
    let (holding, wanted, mut applied, calls) = holding(HoldLimits::default());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(proxy.holding(holding).run(shutdown.clone()));

    // Wanted first: nothing there to hold.
    let holds = Holds::from([(ObjectKey::new("n", "s"), Hold::WhenUnserved)]);
    wanted.send_replace(Arc::new(holds.clone()));
    api.opened.subscribe().wait_for(|opened| *opened == 3).await.unwrap();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "2"},
        "spec": {"clusterIP": "10.43.0.10", "ports": [{"port": 80}]},
    });
    api.say("services", "ADDED", &service);
    until(&mut applied, &holds).await;

    std::thread::scope(|scope| {
        let asking = scope.spawn(|| world.pods[1].0.ask_tcp(at("10.43.0.10:80")));
        calls.held.recv_timeout(PATIENCE).unwrap();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "s-1", "namespace": "n", "uid": "v", "resourceVersion": "3",
                "labels": {"kubernetes.io/service-name": "s"},
            },
            "addressType": "IPv4", "endpoints": [{"addresses": [world.pods[0].1]}], "ports": [{"name": "", "port": 8080}],
        });
        api.say("endpointslices", "ADDED", &slice);
        assert!(asking.join().unwrap().unwrap().starts_with("a "));
    });
    assert_eq!(calls.released.recv_timeout(PATIENCE).unwrap().1.packets, 1);

    // A change of what is wanted is enough by itself.
    for holds in [Holds::from([(ObjectKey::new("n", "s"), Hold::Always)]), Holds::new()] {
        wanted.send_replace(Arc::new(holds.clone()));
        until(&mut applied, &holds).await;
    }
    drop(wanted);
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
}

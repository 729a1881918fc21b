//! Changing the protocol of a connection: what a client offers and what it is
//! answered. What then travels is not looked at.

use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::reply::{Body, text};
use super::streams;
use super::websocket::{self, Protocol};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";

/// How streams travel after an upgrade.
pub(super) enum Upgrade {
    /// Channels of a WebSocket.
    WebSocket(Protocol),
    /// Streams of SPDY, for a protocol of this name.
    Spdy(&'static str),
    /// A whole SPDY connection inside a WebSocket.
    Tunnel,
}

fn offered(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    let value = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.eq_ignore_ascii_case(protocol))
}

impl Upgrade {
    /// For exec and attach.
    pub(super) fn for_command(headers: &HeaderMap) -> Result<(Response<Body>, Self), Response<Body>> {
        if asks_for(headers, "websocket") {
            let offered = offered(headers, &SEC_WEBSOCKET_PROTOCOL);
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = Protocol::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_websocket(headers, protocol.name)?, Self::WebSocket(protocol)));
        }
        if asks_for(headers, SPDY) {
            let offered = offered(headers, &PROTOCOL_VERSION);
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = streams::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_spdy(protocol), Self::Spdy(protocol)));
        }
        Err(text(StatusCode::BAD_REQUEST, "Upgrade request required"))
    }

    /// For port-forward.
    pub(super) fn for_ports(headers: &HeaderMap) -> Result<(Response<Body>, Self), Response<Body>> {
        if asks_for(headers, "websocket") {
            let offered = offered(headers, &SEC_WEBSOCKET_PROTOCOL);
            if offered.iter().any(|name| name == websocket::TUNNEL_PROTOCOL) {
                return Ok((switch_to_websocket(headers, websocket::TUNNEL_PROTOCOL)?, Self::Tunnel));
            }
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            let protocol = Protocol::choose(&offered).ok_or_else(|| unknown(&offered))?;
            return Ok((switch_to_websocket(headers, protocol.name)?, Self::WebSocket(protocol)));
        }
        if asks_for(headers, SPDY) {
            let offered = offered(headers, &PROTOCOL_VERSION);
            if !offered.is_empty() && !offered.iter().any(|name| name == streams::PORT_FORWARD_PROTOCOL) {
                let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
                return Err(unknown(&offered));
            }
            let protocol = streams::PORT_FORWARD_PROTOCOL;
            return Ok((switch_to_spdy(protocol), Self::Spdy(protocol)));
        }
        Err(text(StatusCode::BAD_REQUEST, "Upgrade request required"))
    }
}

fn unknown(offered: &[&str]) -> Response<Body> {
    let message = format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}");
    text(StatusCode::FORBIDDEN, message)
}

fn switching(upgrade: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(upgrade));
    response
}

fn switch_to_websocket(headers: &HeaderMap, protocol: &'static str) -> Result<Response<Body>, Response<Body>> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| text(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| text(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key"))?;
    let mut response = switching("websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

fn switch_to_spdy(protocol: &'static str) -> Response<Body> {
    let mut response = switching(SPDY);
    if !protocol.is_empty() {
        response.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    }
    response
}

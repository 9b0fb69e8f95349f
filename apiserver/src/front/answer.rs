//! Answers as HTTP responses.

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use kontiki_proto::api::{List, WatchStream};
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use serde_json::Value;

use crate::request::{Document, Format};
use crate::verb::shape::{self, ListMeta};

/// How large the pieces are in which a list is sent.
const PIECE: usize = 64 * 1024;
/// Warnings beyond this many bytes together are left out, as upstream does it.
const MAX_WARNINGS: usize = 4 * 1024;

/// How a client wants its documents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub format: Format,
    /// Indented, for people.
    pub pretty: bool,
}

impl Style {
    fn content_type(self) -> &'static str {
        match self.format {
            Format::Json | Format::Protobuf => "application/json",
            Format::Yaml => "application/yaml",
        }
    }

    /// Whether documents go out as they are.
    fn is_plain(self) -> bool {
        self.format == Format::Json && !self.pretty
    }

    fn apply(self, json: &Bytes) -> Bytes {
        if self.is_plain() {
            return json.clone();
        }
        let Ok(value) = serde_json::from_slice::<Value>(json) else { return json.clone() };
        match self.format {
            Format::Json | Format::Protobuf => {
                let mut text = serde_json::to_vec_pretty(&value).unwrap_or_default();
                text.push(b'\n');
                text.into()
            }
            Format::Yaml => serde_saphyr::to_string(&value).map_or_else(|_| json.clone(), Bytes::from),
        }
    }
}

/// A response with a body of that type; a code that is none becomes 500.
pub fn plain(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut room = MAX_WARNINGS;
    for warning in warnings {
        let Some(left) = room.checked_sub(warning.len()) else { return };
        room = left;
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(warning))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

pub fn document(document: &Document, style: Style) -> Response<Body> {
    let mut response = plain(document.code, style.content_type(), style.apply(&document.json));
    warn(&mut response, &document.warnings);
    response
}

pub fn failure(status: &Status, style: Style) -> Response<Body> {
    let json = Bytes::from(status.to_json());
    let mut response = plain(status.code, style.content_type(), style.apply(&json));
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// A list goes out in pieces, so that no copy of the whole is made.
pub fn list(row: &Resource, list: List, style: Style) -> Response<Body> {
    if let Some(json) = list.document {
        return document(&Document::ok(json), style);
    }
    let meta = ListMeta {
        revision: list.resource_version.parse().unwrap_or_default(),
        continue_token: list.continue_token,
        remaining: list.remaining,
    };
    let (head, tail) = shape::frame(row, &meta);
    if !style.is_plain() {
        let mut whole = BytesMut::from(&head[..]);
        for (index, item) in list.items.iter().enumerate() {
            if index > 0 {
                whole.put_u8(b',');
            }
            whole.put_slice(item);
        }
        whole.put_slice(tail);
        return document(&Document::ok(whole.freeze()), style);
    }
    let mut pieces = Vec::new();
    let mut piece = BytesMut::from(&head[..]);
    for (index, item) in list.items.into_iter().enumerate() {
        if index > 0 {
            piece.put_u8(b',');
        }
        piece.put_slice(&item);
        if piece.len() >= PIECE {
            pieces.push(piece.split().freeze());
        }
    }
    piece.put_slice(tail);
    pieces.push(piece.freeze());
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let body = match pieces.as_mut_slice() {
        [only] => Body::from(std::mem::take(only)),
        _ => Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>))),
    };
    let mut response = plain(200, style.content_type(), body);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn line(event_type: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(event_type.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// One JSON document per line; an error is the last one.
pub fn watch(events: WatchStream) -> Response<Body> {
    let lines = events.map(|event| {
        Ok::<_, std::convert::Infallible>(match event {
            Ok(event) => line(event.event_type.as_str(), &event.object),
            Err(status) => line("ERROR", &status.to_json()),
        })
    });
    plain(200, "application/json", Body::from_stream(lines))
}

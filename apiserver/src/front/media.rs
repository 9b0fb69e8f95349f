//! Media types: which form an answer takes and how a body is written.

use kontiki_proto::api::{PatchType, Shape};
use kontiki_proto::status::Status;

use crate::request::Format;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What the `Accept` header comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub shape: Shape,
    pub format: Format,
}

/// The first media range that this server can answer with decides; 406 where none is.
///
/// # Errors
/// Protobuf, which is read but not written here, without anything else beside it.
pub fn accept(header: &str) -> Result<Wanted, Status> {
    let mut ranges = header.split(',').map(str::trim).filter(|range| !range.is_empty()).peekable();
    if ranges.peek().is_none() {
        return Ok(Wanted::default());
    }
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default() {
            JSON | "*/*" | "application/*" => Format::Json,
            YAML | "text/yaml" | "application/x-yaml" => Format::Yaml,
            _ => continue,
        };
        let mut shape = Shape::Object;
        let (mut group, mut version) = ("", "");
        let mut known = true;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match (name, value) {
                ("as", "Table") => shape = Shape::Table,
                ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => shape = Shape::Metadata,
                ("as", _) => known = false,
                ("g", value) => group = value,
                ("v", value) => version = value,
                ("stream", "watch") | ("q", _) | ("charset", _) => {}
                _ => {}
            }
        }
        if shape != Shape::Object && (group != "meta.k8s.io" || version != "v1") {
            known = false;
        }
        if known {
            return Ok(Wanted { shape, format });
        }
    }
    Err(Status::not_acceptable(
        "application/json, application/yaml, application/json;as=Table;g=meta.k8s.io;v=v1, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    ))
}

fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// How a body is written; 415 for what cannot be read.
pub fn content(header: &str) -> Result<Format, Status> {
    match media_type(header) {
        // Browsers and curl send a form type with every body; upstream's decoder looks for JSON then.
        "" | JSON | "application/x-www-form-urlencoded" | "text/plain" | "*/*" => Ok(Format::Json),
        YAML | "text/yaml" | "application/x-yaml" => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        other => Err(Status::unsupported_media_type(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The kind of patch and how it is written.
pub fn patch(header: &str) -> Result<(PatchType, Format), Status> {
    let accepted = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
    match media_type(header) {
        "application/json-patch+json" => Ok((PatchType::Json, Format::Json)),
        "application/merge-patch+json" => Ok((PatchType::Merge, Format::Json)),
        "application/strategic-merge-patch+json" => Ok((PatchType::StrategicMerge, Format::Json)),
        "application/apply-patch+yaml" => Ok((PatchType::Apply, Format::Yaml)),
        other => Err(Status::unsupported_media_type(other, accepted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_media_range_decides() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (header, expected) in [
            ("", Some((Shape::Object, Format::Json))),
            ("*/*", Some((Shape::Object, Format::Json))),
            (table, Some((Shape::Table, Format::Json))),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
                Some((Shape::Object, Format::Json)),
            ),
            ("application/vnd.kubernetes.protobuf, application/json", Some((Shape::Object, Format::Json))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                Some((Shape::Metadata, Format::Json)),
            ),
            ("application/yaml", Some((Shape::Object, Format::Yaml))),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            let found = accept(header).ok().map(|wanted| (wanted.shape, wanted.format));
            assert_eq!(found, expected, "{header}");
        }
    }

    #[test]
    fn unknown_bodies_and_patches_are_refused() {
        assert_eq!(content("application/cbor").expect_err("refused").code, 415);
        assert_eq!(content(PROTOBUF).expect("known"), Format::Protobuf);
        assert_eq!(content("application/json; charset=utf-8").expect("known"), Format::Json);
        assert_eq!(patch("application/json").expect_err("refused").code, 415);
    }
}

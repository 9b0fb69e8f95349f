//! Every record of the store, on disk and between servers: a version byte, a checksum, a bincode body.
//!
//! ```text
//! ┌─────────┬──────────────────┬──────────┐
//! │ version │ crc32 of the body│ body …   │
//! │ 1 byte  │ 4 bytes, LE      │ bincode  │
//! └─────────┴──────────────────┴──────────┘
//! ```
//!
//! A record that does not match its checksum, or of a version this program does not know, is refused; it is never
//! repaired or skipped.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The layout this program writes. A change of any encoded type's shape raises it.
const VERSION: u8 = 1;
const HEADER: usize = 5;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("a record of {0} bytes is too short to be one")]
    Short(usize),
    #[error("the record has layout version {0}; this program knows {VERSION}")]
    Version(u8),
    #[error("the record does not match its checksum")]
    Checksum,
    #[error("the record's body cannot be read: {0}")]
    Body(String),
}

/// Encodes to memory. The types of this crate always have an encoding.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut record = vec![VERSION, 0, 0, 0, 0];
    bincode::serde::encode_into_std_write(value, &mut record, bincode::config::standard())
        .expect("writing to memory does not fail, and the encoded types have no unencodable value");
    let crc = crc32fast::hash(&record[HEADER..]);
    record[1..HEADER].copy_from_slice(&crc.to_le_bytes());
    record
}

pub(crate) fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, CodecError> {
    if record.len() < HEADER {
        return Err(CodecError::Short(record.len()));
    }
    if record[0] != VERSION {
        return Err(CodecError::Version(record[0]));
    }
    let (header, body) = record.split_at(HEADER);
    if crc32fast::hash(body).to_le_bytes() != header[1..] {
        return Err(CodecError::Checksum);
    }
    let (value, read) = bincode::serde::decode_from_slice(body, bincode::config::standard())
        .map_err(|error| CodecError::Body(error.to_string()))?;
    if read != body.len() {
        return Err(CodecError::Body(format!("{} bytes follow the value", body.len() - read)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let value = (7u64, "seven".to_string(), vec![Some(7u8), None]);
        assert_eq!(decode::<(u64, String, Vec<Option<u8>>)>(&encode(&value)).unwrap(), value);
    }

    #[test]
    fn damage_anywhere_is_refused() {
        let record = encode(&"some text that is stored".to_string());
        for place in 0..record.len() {
            let mut damaged = record.clone();
            damaged[place] ^= 0x40;
            assert!(decode::<String>(&damaged).is_err(), "byte {place} was changed unnoticed");
        }
        for length in 0..record.len() {
            assert!(decode::<String>(&record[..length]).is_err(), "cut to {length} bytes unnoticed");
        }
    }
}

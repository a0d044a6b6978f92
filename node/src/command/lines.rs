//! Records as lines of text: what `kauri produce` reads and `kauri consume` prints.
//!
//! Invariant: what `consume --json` prints, `produce --json` reads back as the same key, value and headers, whatever
//! bytes they hold.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::base64;

/// A record as one line says it, before it has a place in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) key: Option<Bytes>,
    /// Absent in a tombstone.
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    pub(crate) partition: Option<i32>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

/// Where a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("no \"{0}\" separates a key from a value")]
    NoSeparator(String),
    #[error("it is no JSON object: {0}")]
    Syntax(String),
    #[error("{0} is no member of a record: those are key, value, headers, partition and timestamp")]
    UnknownMember(String),
    #[error("{member} must be {expected}")]
    Member { member: &'static str, expected: &'static str },
}

impl Line {
    /// A line as it is: all of it is the value, or what stands before the first separator is the key.
    pub(crate) fn from_text(line: &[u8], key_separator: Option<&str>) -> Result<Self, LineError> {
        let Some(separator) = key_separator else {
            return Ok(Self { value: Some(Bytes::copy_from_slice(line)), ..Self::default() });
        };
        let at = line
            .windows(separator.len())
            .position(|window| window == separator.as_bytes())
            .ok_or_else(|| LineError::NoSeparator(separator.to_owned()))?;
        Ok(Self {
            key: Some(Bytes::copy_from_slice(&line[..at])),
            value: Some(Bytes::copy_from_slice(&line[at + separator.len()..])),
            ..Self::default()
        })
    }

    /// `{"key": BYTES, "value": BYTES, "headers": {NAME: BYTES, ...}, "partition": N, "timestamp": MILLISECONDS}`,
    /// all optional. BYTES are a text, `{"base64": TEXT}`, or null. Headers that repeat a name are written
    /// `[[NAME, BYTES], ...]`. `offset` and `topic`, which `consume` prints, are passed over.
    pub(crate) fn from_json(line: &[u8]) -> Result<Self, LineError> {
        let object: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| LineError::Syntax(error.to_string()))?;
        let mut record = Self::default();
        for (name, value) in object {
            match name.as_str() {
                "key" => record.key = bytes_from(value, "key")?,
                "value" => record.value = bytes_from(value, "value")?,
                "headers" => record.headers = headers_from(value)?,
                "partition" => {
                    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
                    let number = number.filter(|&number| number >= 0);
                    let error = LineError::Member { member: "partition", expected: "a number from 0 on" };
                    record.partition = Some(number.ok_or(error)?);
                }
                "timestamp" => {
                    let number = value.as_i64().filter(|&number| number >= 0);
                    let error = LineError::Member { member: "timestamp", expected: "milliseconds since 1970" };
                    record.timestamp = Some(number.ok_or(error)?);
                }
                "offset" | "topic" => {}
                _ => return Err(LineError::UnknownMember(name)),
            }
        }
        Ok(record)
    }

    /// The key, a tab, the value, a tab and the headers; what is absent is left out with its tab. A tombstone's value
    /// is nothing. The bytes are written as they are.
    pub(crate) fn print(&self, out: &mut Vec<u8>) {
        if let Some(key) = &self.key {
            out.extend_from_slice(key);
            out.push(b'\t');
        }
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
        for (position, (name, value)) in self.headers.iter().enumerate() {
            out.push(if position == 0 { b'\t' } else { b',' });
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        out.push(b'\n');
    }

    /// One JSON object, see [`Line::from_json`].
    pub(crate) fn print_json(&self, topic: &str, place: Place, out: &mut Vec<u8>) {
        let headers: Vec<Value> =
            self.headers.iter().map(|(name, value)| json!([name, json_from(value.as_deref())])).collect();
        let object = json!({
            "topic": topic,
            "partition": place.partition,
            "offset": place.offset,
            "timestamp": place.timestamp,
            "key": json_from(self.key.as_deref()),
            "value": json_from(self.value.as_deref()),
            "headers": headers,
        });
        serde_json::to_writer(&mut *out, &object).expect("a vector takes everything, and all keys are texts");
        out.push(b'\n');
    }
}

/// `NAME=VALUE`, as a flag has it.
pub(crate) fn header_from_text(text: &str) -> Result<(String, Bytes), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is not NAME=VALUE"))?;
    Ok((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
}

fn bytes_from(value: Value, member: &'static str) -> Result<Option<Bytes>, LineError> {
    let error = LineError::Member { member, expected: "a text, {\"base64\": TEXT} or null" };
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Bytes::from(text))),
        Value::Object(object) => match (object.len(), object.get("base64").and_then(Value::as_str)) {
            (1, Some(text)) => base64::decode(text).map(|bytes| Some(Bytes::from(bytes))).ok_or(error),
            _ => Err(error),
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(error),
    }
}

fn headers_from(value: Value) -> Result<Vec<(String, Option<Bytes>)>, LineError> {
    let error = || LineError::Member { member: "headers", expected: "{NAME: BYTES, ...} or [[NAME, BYTES], ...]" };
    match value {
        Value::Object(object) => {
            object.into_iter().map(|(name, value)| Ok((name, bytes_from(value, "a header")?))).collect()
        }
        Value::Array(pairs) => pairs
            .into_iter()
            .map(|pair| match pair {
                Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
                    Ok([Value::String(name), value]) => Ok((name, bytes_from(value, "a header")?)),
                    Ok(_) | Err(_) => Err(error()),
                },
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Err(error()),
            })
            .collect(),
        Value::Null => Ok(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(error()),
    }
}

fn json_from(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::from(text),
        Some((bytes, Err(_))) => json!({ "base64": base64::encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from(text))
    }

    #[test]
    fn plain_lines() {
        let value = |value| Line { value: bytes(value), ..Line::default() };
        assert_eq!(Line::from_text(b"a:b", None), Ok(value("a:b")));
        assert_eq!(Line::from_text(b"", None), Ok(value("")));
        let keyed = Line { key: bytes("a"), value: bytes("b::c"), ..Line::default() };
        assert_eq!(Line::from_text(b"a::b::c", Some("::")), Ok(keyed));
        let error = Line::from_text(b"abc", Some("::")).unwrap_err();
        assert_eq!(error.to_string(), "no \"::\" separates a key from a value");
    }

    #[test]
    fn json_lines() {
        let line =
            br#"{"key":null,"value":{"base64":"AP8="},"headers":{"a":"1","b":null},"partition":3,"timestamp":7}"#;
        let expected = Line {
            key: None,
            value: Some(Bytes::from_static(b"\0\xff")),
            headers: vec![("a".to_owned(), bytes("1")), ("b".to_owned(), None)],
            partition: Some(3),
            timestamp: Some(7),
        };
        assert_eq!(Line::from_json(line), Ok(expected));
        assert_eq!(Line::from_json(b"{}"), Ok(Line::default()));
    }

    #[test]
    fn each_mistake_in_json_is_named() {
        let check = |line: &str, sentence: &str| {
            let error = Line::from_json(line.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{line}: {error}");
        };
        check("{", "it is no JSON object: ");
        check("[]", "it is no JSON object: ");
        check(r#"{"vaule":""}"#, "vaule is no member of a record");
        check(r#"{"value":1}"#, "value must be a text, {\"base64\": TEXT} or null");
        check(r#"{"value":{"base64":"?"}}"#, "value must be a text");
        check(r#"{"headers":[["a"]]}"#, "headers must be");
        check(r#"{"headers":{"a":1}}"#, "a header must be a text");
        check(r#"{"partition":-1}"#, "partition must be a number from 0 on");
        check(r#"{"timestamp":"now"}"#, "timestamp must be milliseconds since 1970");
    }

    #[test]
    fn what_is_printed_as_json_is_read_back() {
        let place = Place { partition: 3, offset: 42, timestamp: 7 };
        let header = |name: &str, value| (name.to_owned(), value);
        let lines = [
            Line::default(),
            Line { key: bytes(""), value: bytes("x\ny\u{e9}"), ..Line::default() },
            Line {
                key: Some(Bytes::from_static(b"\xff")),
                headers: vec![header("a", bytes("1")), header("a", bytes("2")), header("", None)],
                ..Line::default()
            },
        ];
        for line in lines {
            let mut printed = Vec::new();
            line.print_json("t", place, &mut printed);
            assert_eq!(printed.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line per record");
            let read = Line::from_json(&printed).unwrap();
            assert_eq!(read, Line { partition: Some(3), timestamp: Some(7), ..line });
        }
    }

    #[test]
    fn what_is_printed_for_people() {
        let check = |line: Line, expected: &[u8]| {
            let mut printed = Vec::new();
            line.print(&mut printed);
            assert_eq!(printed, expected);
        };
        let headers = vec![("a".to_owned(), bytes("1")), ("b".to_owned(), None)];
        check(Line { value: bytes("v"), ..Line::default() }, b"v\n");
        check(Line { key: bytes("k"), value: bytes("v"), ..Line::default() }, b"k\tv\n");
        check(Line { key: bytes("k"), headers, ..Line::default() }, b"k\t\ta=1,b=\n");
    }
}

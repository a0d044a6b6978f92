//! The pieces that a declared structure is encoded and decoded with.

use super::{Context, DecodeError, EncodeError, Reader, Wire, Writer};
use crate::schema::Presence;

/// Decodes one field and names it if it is null where its version does not allow that.
#[inline]
pub(crate) fn decode_field<T: Wire>(
    reader: &mut Reader,
    context: Context,
    presence: Presence,
    field: &'static str,
) -> Result<T, DecodeError> {
    match T::decode(reader, context) {
        Ok(value) if value.is_null() && !presence.nullable.contains(context.version) => {
            Err(DecodeError::UnexpectedNull { field })
        }
        Err(DecodeError::UnexpectedNull { field: "" }) => Err(DecodeError::UnexpectedNull { field }),
        result => result,
    }
}

#[inline]
pub(crate) fn encode_field<T: Wire>(
    value: &T,
    writer: &mut Writer,
    context: Context,
    presence: Presence,
    field: &'static str,
) -> Result<(), EncodeError> {
    if value.is_null() && !presence.nullable.contains(context.version) {
        return Err(EncodeError::UnexpectedNull { field, version: context.version });
    }
    value.encode(writer, context)
}

/// Tagged fields that differ from their default, gathered until their count is known.
#[derive(Default)]
pub(crate) struct TaggedFields {
    count: u32,
    encoded: Writer,
}

impl TaggedFields {
    /// Must be called in ascending order of tags, which is the order in which they are declared.
    pub(crate) fn add<T: Wire>(&mut self, tag: u32, value: &T, context: Context) -> Result<(), EncodeError> {
        // The length comes first and its own length varies, so the value is encoded on the side. Tagged fields are rare
        // and small.
        let mut scratch = Writer::new();
        value.encode(&mut scratch, context)?;
        let length = scratch.len();
        self.count += 1;
        self.encoded.put_unsigned_varint(tag);
        self.encoded.put_unsigned_varint(u32::try_from(length).map_err(|_| EncodeError::TooLong { length })?);
        self.encoded.append(scratch);
        Ok(())
    }

    pub(crate) fn encode(self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.put_unsigned_varint(self.count);
        if self.count > 0 {
            writer.append(self.encoded);
        }
        Ok(())
    }
}

//! How each field type looks on the wire.

use bytes::Bytes;

use super::{DecodeError, EncodeError, Reader, Str, Uuid, Writer};
use crate::error::ErrorCode;
use crate::schema::Type;

/// What a field must know of the message it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub version: i16,
    /// Whether `version` is a flexible one: compact lengths, tagged fields.
    pub flexible: bool,
}

/// A value that can be a field of a message. `Option` is null on the wire; structures are declared with `structure!`.
pub trait Wire: Sized {
    const TYPE: Type;

    /// The fewest bytes that any value takes, by which counts of elements are checked.
    fn size_min(context: Context) -> usize;

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError>;

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError>;

    #[inline]
    fn is_null(&self) -> bool {
        false
    }
}

macro_rules! numbers {
    ($($type:ty, $kind:ident, $read:ident, $put:ident;)*) => {$(
        impl Wire for $type {
            const TYPE: Type = Type::$kind;

            #[inline]
            fn size_min(_: Context) -> usize {
                size_of::<Self>()
            }

            #[inline]
            fn decode(reader: &mut Reader, _: Context) -> Result<Self, DecodeError> {
                reader.$read()
            }

            #[inline]
            fn encode(&self, writer: &mut Writer, _: Context) -> Result<(), EncodeError> {
                writer.$put(*self);
                Ok(())
            }
        }
    )*};
}

numbers! {
    bool, Bool, bool, put_bool;
    i8, Int8, i8, put_i8;
    i16, Int16, i16, put_i16;
    u16, Uint16, u16, put_u16;
    i32, Int32, i32, put_i32;
    u32, Uint32, u32, put_u32;
    i64, Int64, i64, put_i64;
    f64, Float64, f64, put_f64;
}

impl Wire for ErrorCode {
    const TYPE: Type = Type::Int16;

    fn size_min(_: Context) -> usize {
        2
    }

    fn decode(reader: &mut Reader, _: Context) -> Result<Self, DecodeError> {
        reader.i16().map(Self::from)
    }

    fn encode(&self, writer: &mut Writer, _: Context) -> Result<(), EncodeError> {
        writer.put_i16(self.code());
        Ok(())
    }
}

impl Wire for Uuid {
    const TYPE: Type = Type::Uuid;

    fn size_min(_: Context) -> usize {
        16
    }

    fn decode(reader: &mut Reader, _: Context) -> Result<Self, DecodeError> {
        reader.uuid_bytes().map(Self)
    }

    fn encode(&self, writer: &mut Writer, _: Context) -> Result<(), EncodeError> {
        writer.put_slice(&self.0);
        Ok(())
    }
}

/// A value that must be there. The name of the field is filled in by the structure, which knows it.
fn not_null<T>(value: Option<T>) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::UnexpectedNull { field: "" })
}

impl Wire for Option<Str> {
    const TYPE: Type = Type::String { nullable: true };

    fn size_min(context: Context) -> usize {
        if context.flexible { 1 } else { 2 }
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        match reader.string_length(context.flexible)? {
            None => Ok(None),
            Some(length) => reader.str(length).map(Some),
        }
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        match self {
            None => writer.put_string_length(None, context.flexible),
            Some(text) => text.encode(writer, context),
        }
    }

    #[inline]
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl Wire for Str {
    const TYPE: Type = Type::String { nullable: false };

    fn size_min(context: Context) -> usize {
        Option::<Self>::size_min(context)
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        not_null(Option::decode(reader, context)?)
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        let bytes = self.as_bytes();
        writer.put_string_length(Some(bytes.len()), context.flexible)?;
        writer.put_slice(bytes);
        Ok(())
    }
}

impl Wire for Option<Bytes> {
    const TYPE: Type = Type::Bytes { nullable: true };

    fn size_min(context: Context) -> usize {
        if context.flexible { 1 } else { 4 }
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        match reader.length(context.flexible)? {
            None => Ok(None),
            Some(length) => reader.bytes(length).map(Some),
        }
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        match self {
            None => writer.put_length(None, context.flexible),
            Some(bytes) => bytes.encode(writer, context),
        }
    }

    #[inline]
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl Wire for Bytes {
    const TYPE: Type = Type::Bytes { nullable: false };

    fn size_min(context: Context) -> usize {
        Option::<Self>::size_min(context)
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        not_null(Option::decode(reader, context)?)
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        writer.put_length(Some(self.len()), context.flexible)?;
        writer.put_bytes(self);
        Ok(())
    }
}

impl<T: Wire> Wire for Option<Vec<T>> {
    const TYPE: Type = Type::Array { element: &T::TYPE, nullable: true };

    fn size_min(context: Context) -> usize {
        if context.flexible { 1 } else { 4 }
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        let Some(count) = reader.length(context.flexible)? else {
            return Ok(None);
        };
        reader.pay_for(count, T::size_min(context), size_of::<T>())?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::decode(reader, context)?);
        }
        Ok(Some(elements))
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        match self {
            None => writer.put_length(None, context.flexible),
            Some(elements) => elements.encode(writer, context),
        }
    }

    #[inline]
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl<T: Wire> Wire for Vec<T> {
    const TYPE: Type = Type::Array { element: &T::TYPE, nullable: false };

    fn size_min(context: Context) -> usize {
        Option::<Self>::size_min(context)
    }

    fn decode(reader: &mut Reader, context: Context) -> Result<Self, DecodeError> {
        not_null(Option::decode(reader, context)?)
    }

    fn encode(&self, writer: &mut Writer, context: Context) -> Result<(), EncodeError> {
        writer.put_length(Some(self.len()), context.flexible)?;
        for element in self {
            element.encode(writer, context)?;
        }
        Ok(())
    }
}

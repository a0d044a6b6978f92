//! The macros in which messages are declared.
//!
//! A field reads `name: Type [versions, attributes] = default,` where versions are `3..` or `8..=10` and the
//! attributes, in this order, are `null 1..` (versions in which an `Option` may be `None`; all if absent), `tag 0` and
//! `ignorable`. The default is that of the type if none is given. Which versions a message has, and from which on it is
//! flexible, is said once, in the table of [`crate::api`].

/// Turns `[0.., null 1.., tag 0, ignorable]` into a [`crate::schema::Presence`].
macro_rules! presence {
    (@ $built:expr;) => { $built };
    (@ $built:expr; , null $min:literal .. $($rest:tt)*) => {
        presence!(@ $built.nullable($min, i16::MAX); $($rest)*)
    };
    (@ $built:expr; , null $min:literal ..= $max:literal $($rest:tt)*) => {
        presence!(@ $built.nullable($min, $max); $($rest)*)
    };
    (@ $built:expr; , tag $tag:literal $($rest:tt)*) => { presence!(@ $built.tag($tag); $($rest)*) };
    (@ $built:expr; , ignorable $($rest:tt)*) => { presence!(@ $built.ignorable(); $($rest)*) };
    ($min:literal .. $($rest:tt)*) => {
        presence!(@ $crate::schema::Presence::new($min, i16::MAX); $($rest)*)
    };
    ($min:literal ..= $max:literal $($rest:tt)*) => {
        presence!(@ $crate::schema::Presence::new($min, $max); $($rest)*)
    };
}

macro_rules! default_value {
    ($type:ty) => {
        <$type as Default>::default()
    };
    ($type:ty, $default:expr) => {
        $default
    };
}

/// Declares a structure that is part of messages.
macro_rules! structure {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $( $(#[$field_about:meta])* $field:ident : $type:ty [$($presence:tt)*] $(= $default:expr)?, )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$field_about])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: default_value!($type $(, $default)?), )* }
            }
        }

        impl $name {
            pub(crate) const STRUCT: $crate::schema::Struct = $crate::schema::Struct {
                name: stringify!($name),
                fields: &[$( $crate::schema::Field {
                    name: stringify!($field),
                    presence: presence!($($presence)*),
                    type_: <$type as $crate::wire::Wire>::TYPE,
                }, )*],
            };
        }

        impl $crate::wire::Wire for $name {
            const TYPE: $crate::schema::Type = $crate::schema::Type::Struct(&Self::STRUCT);

            #[inline]
            fn size_min(context: $crate::wire::Context) -> usize {
                let mut size = usize::from(context.flexible);
                $({
                    const PRESENCE: $crate::schema::Presence = presence!($($presence)*);
                    if PRESENCE.tag.is_none() && PRESENCE.versions.contains(context.version) {
                        size += <$type as $crate::wire::Wire>::size_min(context);
                    }
                })*
                size
            }

            fn decode(
                reader: &mut $crate::wire::Reader,
                context: $crate::wire::Context,
            ) -> Result<Self, $crate::wire::DecodeError> {
                $(
                    #[allow(unused_mut, reason = "only tagged fields are assigned again")]
                    let mut $field: $type = {
                        const PRESENCE: $crate::schema::Presence = presence!($($presence)*);
                        if PRESENCE.tag.is_none() && PRESENCE.versions.contains(context.version) {
                            $crate::wire::decode_field(reader, context, PRESENCE, stringify!($field))?
                        } else {
                            default_value!($type $(, $default)?)
                        }
                    };
                )*
                if context.flexible {
                    reader.tagged_fields(|reader, tag| {
                        $({
                            const PRESENCE: $crate::schema::Presence = presence!($($presence)*);
                            if PRESENCE.tag == Some(tag) && PRESENCE.versions.contains(context.version) {
                                $field = $crate::wire::decode_field(reader, context, PRESENCE, stringify!($field))?;
                                return Ok(true);
                            }
                        })*
                        let _ = (reader, tag);
                        Ok(false)
                    })?;
                }
                Ok(Self { $($field,)* })
            }

            fn encode(
                &self,
                writer: &mut $crate::wire::Writer,
                context: $crate::wire::Context,
            ) -> Result<(), $crate::wire::EncodeError> {
                let mut tagged = $crate::wire::TaggedFields::default();
                $({
                    const PRESENCE: $crate::schema::Presence = presence!($($presence)*);
                    if !PRESENCE.versions.contains(context.version) {
                        if !PRESENCE.ignorable && self.$field != default_value!($type $(, $default)?) {
                            return Err($crate::wire::EncodeError::FieldNotInVersion {
                                field: stringify!($field),
                                version: context.version,
                            });
                        }
                    } else if let Some(tag) = PRESENCE.tag {
                        if self.$field != default_value!($type $(, $default)?) {
                            tagged.add(tag, &self.$field, context)?;
                        }
                    } else {
                        $crate::wire::encode_field(&self.$field, writer, context, PRESENCE, stringify!($field))?;
                    }
                })*
                if context.flexible {
                    tagged.encode(writer)?;
                }
                Ok(())
            }
        }
    };
}

/// Declares the request or the response of an API: a structure that is also a [`crate::messages::Message`].
macro_rules! message {
    (
        $(#[$about:meta])*
        $api:ident request -> $response:ident
        pub struct $name:ident { $($fields:tt)* }
    ) => {
        message! { $(#[$about])* $api pub struct $name { $($fields)* } }

        impl $crate::messages::RequestMessage for $name {
            type Response = $response;
        }
    };
    (
        $(#[$about:meta])*
        $api:ident response
        pub struct $name:ident { $($fields:tt)* }
    ) => {
        message! { $(#[$about])* $api pub struct $name { $($fields)* } }
    };
    (
        $(#[$about:meta])*
        $api:ident
        pub struct $name:ident { $($fields:tt)* }
    ) => {
        structure! { $(#[$about])* pub struct $name { $($fields)* } }

        impl $crate::messages::Message for $name {
            const API: &'static $crate::api::Api = $crate::api::ApiKey::$api.api();
            const STRUCT: &'static $crate::schema::Struct = &Self::STRUCT;

            fn decode(reader: &mut $crate::wire::Reader, version: i16) -> Result<Self, $crate::wire::DecodeError> {
                let context = $crate::messages::decode_context(Self::API, version)?;
                $crate::wire::Wire::decode(reader, context)
            }

            fn encode(&self, writer: &mut $crate::wire::Writer, version: i16) -> Result<(), $crate::wire::EncodeError> {
                let context = $crate::messages::encode_context(Self::API, version)?;
                $crate::wire::Wire::encode(self, writer, context)
            }
        }
    };
}

//! What a kind looks like: its fields, lists and maps with the rules by which
//! they are decoded, pruned, merged and encoded. Built-in kinds come from a
//! generated table ([`Library`]), custom ones from their structural schema.
//! It describes values and never touches one.

mod library;
mod structural;

use std::borrow::Cow;

use serde_json::Value;

pub use library::{Definition, Library, TableError};
pub use structural::CrdSchemaError;

/// One type, with the attributes it has at this place.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// As declared; [`Schema::shape`] resolves a reference.
    pub declared: Shape,
    /// The value of an absent field.
    pub default: Option<Box<Value>>,
    /// Go holds a pointer here, so an explicit zero value is kept.
    pub pointer: bool,
    /// Custom kinds: `null` is a value.
    pub nullable: bool,
    /// How elements of a list are told apart.
    pub list: ListType,
    /// The list type is said and not the default of silence.
    pub explicit_list: bool,
    /// How members of a map or struct are owned; none means granular.
    pub map: Option<MapType>,
    /// Strategic merge patch.
    pub patch: PatchStrategy,
    /// Custom kinds: the value is an object with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    /// The list is a message of its own on the wire of protobuf.
    pub wrapped: bool,
    /// Go's name of the type where it cannot be told from the shape.
    pub go_name: Option<&'static str>,
}

/// The kinds of value.
#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// Any JSON, kept as it is.
    #[default]
    Any,
    /// `true` or `false`.
    Bool,
    /// A signed number of 32 bits.
    Int32,
    /// A signed number of 64 bits.
    Int64,
    /// A double.
    Float,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `meta/v1 Time`: whole seconds.
    Time,
    /// `meta/v1 MicroTime`: whole microseconds.
    MicroTime,
    /// `meta/v1 Duration`: Go's text form.
    Duration,
    /// `meta/v1 FieldsV1`.
    Fields,
    /// `runtime.RawExtension`: any object.
    Raw,
    /// `apiextensions/v1 JSON`: any value.
    Json,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray(&'static Definition),
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool(&'static Definition),
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings(&'static Definition),
    /// Known fields.
    Struct(Box<Struct>),
    /// Text keys, values of one type.
    Map(Box<Schema>),
    /// Elements of one type.
    List(Box<Schema>),
    /// A definition of the built-in library.
    Named(&'static Definition),
}

/// A type with known fields.
#[derive(Clone, Debug, Default)]
pub struct Struct {
    /// Go's name, without package: `Container`.
    pub name: Cow<'static, str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Unknown fields are kept.
    pub preserve_unknown: bool,
    /// Whose decoding rules apply to the fields.
    pub dialect: Dialect,
    /// Objects of this type are stored as JSON, so that a list that is empty
    /// stays apart from one that is absent; protobuf knows no difference.
    pub keeps_empty: bool,
}

/// Whose rules a value is decoded by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// Go types: a value of another type is an error, zero values disappear.
    #[default]
    Go,
    /// Custom kinds: the tree is kept, validation judges types later.
    Custom,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: Cow<'static, str>,
    /// Its type.
    pub schema: Schema,
    /// OpenAPI calls it required.
    pub required: bool,
    /// When Go leaves it out.
    pub omit: Omit,
    /// Its protobuf number; none if it is not on the wire.
    pub proto: Option<Proto>,
}

/// Where a field is on the wire of protobuf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proto {
    numbers: [u32; 3],
    length: u8,
}

impl Proto {
    /// From field numbers, outermost message first; three at most.
    pub fn new(path: &[u32]) -> Option<Self> {
        let mut numbers = [0; 3];
        numbers.get_mut(..path.len())?.copy_from_slice(path);
        Some(Self { numbers, length: u8::try_from(path.len()).ok()? })
    }

    /// Numbers of the messages that JSON inlines, then the field's own.
    pub fn path(&self) -> &[u32] {
        &self.numbers[..usize::from(self.length)]
    }
}

/// When an encoder leaves a field out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Omit {
    /// Never: the zero value is written.
    #[default]
    Never,
    /// `omitempty`: false, 0, "", null, empty lists and maps; a struct never.
    Empty,
    /// `omitzero`: also a struct with nothing in it.
    Zero,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ListType {
    /// One owner for the whole list.
    #[default]
    Atomic,
    /// Elements are told apart by value.
    Set,
    /// Elements are told apart by these fields.
    Map(Vec<Cow<'static, str>>),
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapType {
    /// One owner for the whole.
    Atomic,
    /// Each member has its owners.
    Granular,
}

/// `x-kubernetes-patch-strategy` and `-patch-merge-key`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatchStrategy {
    /// Lists are merged, not replaced.
    pub merge: bool,
    /// The value is replaced as a whole.
    pub replace: bool,
    /// Members that the patch does not name are dropped.
    pub retain_keys: bool,
    /// The field that tells elements apart; none for lists of scalars.
    pub merge_key: Option<Cow<'static, str>>,
}

impl Schema {
    /// A schema of this shape with no attributes.
    pub fn new(declared: Shape) -> Self {
        Self { declared, ..Self::default() }
    }

    /// The shape, with a reference resolved.
    pub fn shape(&self) -> &Shape {
        match &self.declared {
            Shape::Named(definition) => definition.schema().shape(),
            shape => shape,
        }
    }

    /// Known fields, if this is a struct.
    pub fn as_struct(&self) -> Option<&Struct> {
        match self.shape() {
            Shape::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.as_struct()?.field(name)
    }

    /// Fields sorted by name; empty if this is no struct.
    pub fn fields(&self) -> &[Field] {
        self.as_struct().map_or(&[], |known| &known.fields)
    }

    /// Type of the elements, if this is a list.
    pub fn items(&self) -> Option<&Schema> {
        match self.shape() {
            Shape::List(items) => Some(items),
            _ => None,
        }
    }

    /// Type of the values, if this is a map.
    pub fn values(&self) -> Option<&Schema> {
        match self.shape() {
            Shape::Map(values) => Some(values),
            _ => None,
        }
    }

    /// Atomic here or by its definition.
    pub fn is_atomic_map(&self) -> bool {
        let declared = match (&self.map, &self.declared) {
            (Some(map), _) => Some(*map),
            (None, Shape::Named(definition)) => definition.schema().map,
            (None, _) => None,
        };
        declared == Some(MapType::Atomic)
    }

    /// Go's name of the type, as decode errors print it.
    pub fn go_name(&self) -> Cow<'_, str> {
        if let Some(name) = self.go_name {
            return Cow::Borrowed(name);
        }
        match &self.declared {
            Shape::Named(definition) => definition.go_name(),
            Shape::Any | Shape::Raw => Cow::Borrowed("runtime.RawExtension"),
            Shape::Bool => Cow::Borrowed("bool"),
            Shape::Int32 => Cow::Borrowed("int32"),
            Shape::Int64 => Cow::Borrowed("int64"),
            Shape::Float => Cow::Borrowed("float64"),
            Shape::String => Cow::Borrowed("string"),
            Shape::Bytes => Cow::Borrowed("[]uint8"),
            Shape::Quantity => Cow::Borrowed("resource.Quantity"),
            Shape::IntOrString => Cow::Borrowed("intstr.IntOrString"),
            Shape::Time => Cow::Borrowed("v1.Time"),
            Shape::MicroTime => Cow::Borrowed("v1.MicroTime"),
            Shape::Duration => Cow::Borrowed("v1.Duration"),
            Shape::Fields => Cow::Borrowed("v1.FieldsV1"),
            Shape::Json => Cow::Borrowed("v1.JSON"),
            Shape::SchemaOrArray(_) => Cow::Borrowed("v1.JSONSchemaPropsOrArray"),
            Shape::SchemaOrBool(_) => Cow::Borrowed("v1.JSONSchemaPropsOrBool"),
            Shape::SchemaOrStrings(_) => Cow::Borrowed("v1.JSONSchemaPropsOrStringArray"),
            Shape::Struct(known) => known.name.as_ref().into(),
            Shape::Map(values) => Cow::Owned(format!("map[string]{}", values.go_name())),
            Shape::List(items) => Cow::Owned(format!("[]{}", items.go_name())),
        }
    }
}

impl Struct {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        self.fields.get(index)
    }
}

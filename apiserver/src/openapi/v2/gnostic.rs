//! The messages of gnostic's `openapi.v2` package that the document uses, with the fields that it fills.
//!
//! Field numbers are gnostic's and fixed. Readers skip what they do not find; what is left out here nobody asks for.

use prost::{Message, Oneof};
use serde_json::{Map, Value};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Document {
    #[prost(string, tag = "1")]
    pub swagger: String,
    #[prost(message, optional, tag = "2")]
    pub info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    pub paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    pub definitions: Option<Properties>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Info {
    #[prost(string, tag = "1")]
    pub title: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

/// Gnostic's `Any`: the value as YAML, of which JSON is a part.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "2")]
    pub yaml: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedAny {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedSchema {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Schema>,
}

/// `Properties` and `Definitions`, which look the same.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Properties {
    #[prost(message, repeated, tag = "1")]
    pub additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeItem {
    #[prost(string, repeated, tag = "1")]
    pub value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    pub schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AdditionalPropertiesItem {
    #[prost(oneof = "Values", tags = "1, 2")]
    pub values: Option<Values>,
}

/// The values of a map: of one schema, or whether there may be any.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Values {
    #[prost(message, tag = "1")]
    Schema(Box<Schema>),
    #[prost(bool, tag = "2")]
    Boolean(bool),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Schema {
    #[prost(string, tag = "1")]
    pub r#ref: String,
    #[prost(string, tag = "2")]
    pub format: String,
    #[prost(string, tag = "3")]
    pub title: String,
    #[prost(string, tag = "4")]
    pub description: String,
    #[prost(message, optional, tag = "5")]
    pub default: Option<Any>,
    #[prost(string, repeated, tag = "19")]
    pub required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    pub r#enum: Vec<Any>,
    #[prost(message, optional, tag = "21")]
    pub additional_properties: Option<AdditionalPropertiesItem>,
    #[prost(message, optional, tag = "22")]
    pub r#type: Option<TypeItem>,
    #[prost(message, optional, tag = "23")]
    pub items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    pub properties: Option<Properties>,
    #[prost(message, repeated, tag = "31")]
    pub vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Paths {
    #[prost(message, repeated, tag = "2")]
    pub path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedPathItem {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PathItem {
    #[prost(message, optional, tag = "8")]
    pub patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Operation {
    #[prost(string, tag = "5")]
    pub operation_id: String,
    #[prost(string, repeated, tag = "6")]
    pub produces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub consumes: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    pub parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    pub vendor_extension: Vec<NamedAny>,
}

/// `ParametersItem` > `Parameter` > `NonBodyParameter` > `QueryParameterSubSchema`: one alternative of each.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    pub parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Parameter {
    #[prost(message, optional, tag = "2")]
    pub non_body_parameter: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    pub query_parameter: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryParameter {
    #[prost(string, tag = "2")]
    pub r#in: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "6")]
    pub r#type: String,
    #[prost(bool, tag = "20")]
    pub unique_items: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn any(value: &Value) -> Any {
    Any { yaml: value.to_string() }
}

fn extensions(of: &Value) -> Vec<NamedAny> {
    entries(of)
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) })
        .collect()
}

fn properties(of: &Map<String, Value>) -> Properties {
    let named =
        |(name, value): (&String, &Value)| NamedSchema { name: name.clone(), value: Some(value.into()) };
    Properties { additional_properties: of.iter().map(named).collect() }
}

/// From a Swagger 2.0 document; what has no field here is left out.
impl From<&Value> for Document {
    fn from(of: &Value) -> Document {
        let path = entries(&of["paths"])
            .map(|(name, item)| NamedPathItem {
                name: name.clone(),
                value: Some(PathItem { patch: Some(operation(&item["patch"])) }),
            })
            .collect();
        Document {
            swagger: text(&of["swagger"]),
            info: Some(Info { title: text(&of["info"]["title"]), version: text(&of["info"]["version"]) }),
            paths: Some(Paths { path }),
            definitions: of["definitions"].as_object().map(properties),
        }
    }
}

fn operation(of: &Value) -> Operation {
    let parameters = of["parameters"].as_array().into_iter().flatten();
    let query = parameters.filter(|parameter| parameter["in"] == "query").map(|parameter| {
        let query = QueryParameter {
            r#in: text(&parameter["in"]),
            name: text(&parameter["name"]),
            r#type: text(&parameter["type"]),
            unique_items: parameter["uniqueItems"] == true,
        };
        let non_body_parameter = Some(NonBodyParameter { query_parameter: Some(query) });
        ParametersItem { parameter: Some(Parameter { non_body_parameter }) }
    });
    Operation {
        operation_id: text(&of["operationId"]),
        produces: texts(&of["produces"]),
        consumes: texts(&of["consumes"]),
        parameters: query.collect(),
        vendor_extension: extensions(of),
    }
}

/// From a Swagger 2.0 schema.
impl From<&Value> for Schema {
    fn from(of: &Value) -> Schema {
        let values = match &of["additionalProperties"] {
            Value::Bool(any) => Some(Values::Boolean(*any)),
            values @ Value::Object(_) => Some(Values::Schema(Box::new(values.into()))),
            _ => None,
        };
        Schema {
            r#ref: text(&of["$ref"]),
            format: text(&of["format"]),
            title: text(&of["title"]),
            description: text(&of["description"]),
            default: of.get("default").map(any),
            required: texts(&of["required"]),
            r#enum: of["enum"].as_array().into_iter().flatten().map(any).collect(),
            additional_properties: values.map(|values| AdditionalPropertiesItem { values: Some(values) }),
            r#type: of["type"].as_str().map(|name| TypeItem { value: vec![name.to_string()] }),
            items: of.get("items").map(|items| ItemsItem { schema: vec![items.into()] }),
            properties: of["properties"].as_object().map(properties),
            vendor_extension: extensions(of),
        }
    }
}

#[cfg(test)]
impl Schema {
    /// The schema of a map's values, if they have one.
    pub fn values(&self) -> impl Iterator<Item = &Schema> {
        let values = self.additional_properties.iter().filter_map(|item| item.values.as_ref());
        values.filter_map(|values| match values {
            Values::Schema(schema) => Some(schema.as_ref()),
            Values::Boolean(_) => None,
        })
    }
}

#[cfg(test)]
impl Operation {
    pub fn query_parameters(&self) -> impl Iterator<Item = &str> {
        let parameters = self.parameters.iter().filter_map(|item| item.parameter.as_ref());
        let query = parameters.filter_map(|of| of.non_body_parameter.as_ref()?.query_parameter.as_ref());
        query.map(|parameter| parameter.name.as_str())
    }
}

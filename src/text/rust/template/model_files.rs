//! Where Hugging Face models keep their chat template, and the names messages go by.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::ValueKind;
use minijinja::Value;
use serde_json::Value as Json;

use super::SOURCE_BYTES_MAX;
use crate::failure::{read_file, Code, Failure, Result};

const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// The variables of tokenizer_config.json that templates may use.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub struct ModelTemplates {
    pub templates: BTreeMap<String, String>,
    pub variables: Vec<(String, Value)>,
}

pub fn read(directory: &Path) -> Result<ModelTemplates> {
    let config = read_json(&directory.join("tokenizer_config.json"))?;
    let map = read_json(&directory.join("special_tokens_map.json"))?;
    let mut templates = named_templates(&config["chat_template"]);
    let files = [
        ("default", "chat_template.jinja"),
        ("tool_use", "additional_chat_templates/tool_use.jinja"),
    ];
    for (name, file) in files {
        match read_file(&directory.join(file), SOURCE_BYTES_MAX as u64) {
            Ok(source) => {
                let source = String::from_utf8(source)
                    .map_err(|_| Failure::invalid(format!("{file} is not UTF-8")))?;
                templates.insert(name.into(), source);
            }
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    if templates.is_empty() {
        let name = directory.display();
        return Err(Failure::new(Code::NotFound, format!("no chat template in {name}")));
    }
    let variables = SPECIAL_TOKENS
        .iter()
        .filter_map(|&name| {
            let token = token_text(&config[name]).or_else(|| token_text(&map[name]))?;
            Some((name.to_string(), Value::from(token)))
        })
        .collect();
    Ok(ModelTemplates { templates, variables })
}

fn read_json(path: &Path) -> Result<Json> {
    match read_file(path, CONFIG_BYTES_MAX) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Failure::invalid(format!("{}: {error}", path.display()))),
        Err(failure) if failure.code == Code::NotFound => Ok(Json::Null),
        Err(failure) => Err(failure),
    }
}

/// One template, or a list of `{"name": .., "template": ..}`.
fn named_templates(field: &Json) -> BTreeMap<String, String> {
    match field {
        Json::String(source) => BTreeMap::from([("default".to_string(), source.clone())]),
        Json::Array(list) => list
            .iter()
            .filter_map(|entry| {
                let name = entry["name"].as_str()?;
                Some((name.to_string(), entry["template"].as_str()?.to_string()))
            })
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// A token is given as text or as an object with its `content`.
fn token_text(field: &Json) -> Option<String> {
    let text = field.as_str().or_else(|| field["content"].as_str())?;
    Some(text.to_string())
}

/// Reasoning goes by three names; transformers makes `reasoning_content` and `thinking` available
/// whichever of them a message uses.
pub fn with_reasoning_names(messages: Value) -> Result<Value> {
    let broken = |error: minijinja::Error| Failure::invalid(format!("messages: {error}"));
    let mut list = Vec::new();
    for message in messages.try_iter().map_err(broken)? {
        if message.kind() != ValueKind::Map {
            return Err(Failure::invalid("a message is not an object"));
        }
        let reasoning = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .map(|&name| message.get_attr(name).unwrap_or_default())
            .find(|value| !value.is_undefined() && !value.is_none());
        list.push(match reasoning {
            Some(reasoning) => add_names(&message, &reasoning),
            None => message,
        });
    }
    Ok(Value::from(list))
}

fn add_names(message: &Value, reasoning: &Value) -> Value {
    let own = message.as_object().and_then(|object| object.try_iter_pairs());
    let mut pairs = vec![(Value::from("thinking"), reasoning.clone())];
    for (key, value) in own.into_iter().flatten() {
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key, value)),
        }
    }
    let name = Value::from("reasoning_content");
    match pairs.iter_mut().find(|(known, _)| *known == name) {
        Some(pair) => pair.1 = reasoning.clone(),
        None => pairs.push((name, reasoning.clone())),
    }
    Value::from_pairs(pairs)
}

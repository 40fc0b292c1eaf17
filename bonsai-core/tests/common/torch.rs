//! Files as `torch.save` writes them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::Tensor;

/// A value of a dict.
pub enum Value {
    Tensor(Tensor),
    Int(i32),
    Ints(Vec<i32>),
    Text(&'static str),
    Bool(bool),
    Dict(BTreeMap<String, Value>),
}

pub fn write(path: &Path, root: BTreeMap<String, Value>) {
    let mut pickle = vec![0x80, 2];
    let mut storages = Vec::new();
    put(&mut pickle, &mut storages, Value::Dict(root));
    pickle.push(b'.');
    let mut entries = vec![("data.pkl".to_owned(), pickle), ("byteorder".to_owned(), b"little".to_vec())];
    entries.extend(storages.into_iter().enumerate().map(|(key, bytes)| (format!("data/{key}"), bytes)));
    let entries: Vec<_> =
        entries.into_iter().map(|(name, bytes)| (format!("archive/{name}"), bytes)).collect();
    std::fs::write(path, zip(&entries)).unwrap();
}

fn int(out: &mut Vec<u8>, value: i32) {
    out.push(b'J');
    out.extend(value.to_le_bytes());
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'X');
    out.extend((value.len() as u32).to_le_bytes());
    out.extend(value.as_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|&value| int(out, value as i32));
    out.push(b't');
}

fn put(out: &mut Vec<u8>, storages: &mut Vec<Vec<u8>>, value: Value) {
    match value {
        Value::Int(value) => int(out, value),
        Value::Text(value) => text(out, value),
        Value::Bool(value) => out.push(if value { 0x88 } else { 0x89 }),
        Value::Ints(values) => {
            out.extend(b"ctorch\nSize\n(");
            values.into_iter().for_each(|value| int(out, value));
            out.extend(b"t\x85R");
        }
        Value::Dict(items) => {
            out.extend(b"}(");
            for (key, value) in items {
                text(out, &key);
                put(out, storages, value);
            }
            out.push(b'u');
        }
        Value::Tensor(tensor) => {
            let class = match tensor.dtype {
                Dtype::F32 => "Float",
                Dtype::F16 => "Half",
                Dtype::BF16 => "BFloat16",
                Dtype::U8 => "Byte",
                Dtype::I32 => "Int",
                other => panic!("{other:?}"),
            };
            let count: usize = tensor.shape.iter().product();
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(out, "storage");
            out.extend(format!("ctorch\n{class}Storage\n").bytes());
            text(out, &storages.len().to_string());
            text(out, "cpu");
            int(out, count as i32);
            out.extend(b"tQ");
            int(out, 0);
            tuple(out, &tensor.shape);
            let strides: Vec<usize> =
                (0..tensor.shape.len()).map(|axis| tensor.shape[axis + 1..].iter().product()).collect();
            tuple(out, &strides);
            out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
            storages.push(tensor.data);
        }
    }
}

/// A zip file of stored entries.
pub fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let u16s = |out: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    let u32s = |out: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    for (name, bytes) in entries {
        let (place, size, name_len) = (file.len() as u32, bytes.len() as u32, name.len() as u16);
        file.extend(b"PK\x03\x04");
        u16s(&mut file, &[0, 0, 0, 0, 0]);
        u32s(&mut file, &[0, size, size]);
        u16s(&mut file, &[name_len, 0]);
        file.extend(name.bytes());
        file.extend(bytes);
        directory.extend(b"PK\x01\x02");
        u16s(&mut directory, &[0, 0, 0, 0, 0, 0]);
        u32s(&mut directory, &[0, size, size]);
        u16s(&mut directory, &[name_len, 0, 0, 0, 0]);
        u32s(&mut directory, &[0, place]);
        directory.extend(name.bytes());
    }
    let (start, size, count) = (file.len() as u32, directory.len() as u32, entries.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06");
    u16s(&mut file, &[0, 0, count, count]);
    u32s(&mut file, &[size, start]);
    u16s(&mut file, &[0]);
    file
}

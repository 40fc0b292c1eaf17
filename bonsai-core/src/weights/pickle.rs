//! What `torch.save` pickles, read by a small stack machine that runs nothing: it knows the handful of callables that
//! tensors are made with, and refuses every other name.

use std::collections::BTreeMap;

use bonsai_kernels::weights::FloatType;

use super::dtype::Dtype;
use crate::error::{Error, ErrorKind, Result};

/// Dicts pickle a thousand pairs at a time.
const MAX_STACK: usize = 2500;
/// Things and pairs of a dict take more bytes than this in any honest pickle.
const BYTES_PER_THING: usize = 3;
/// How many a short one may have nevertheless.
const FREE_THINGS: usize = 256;
/// Things that are allocated together.
const CHUNK: usize = 256;
/// Of a callable.
const MAX_ARGUMENTS: usize = 8;

/// A name that a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `(storage, offset, size, stride, requires_grad, hooks)`.
    RebuildTensor,
    /// The same and a dtype, for untyped storages.
    RebuildTyped,
    /// `(tensor, requires_grad, hooks)`.
    RebuildParameter,
    Size,
    /// A typed storage, by the dtype's name.
    Storage(&'static str),
    UntypedStorage,
    Dtype(&'static str),
}

const STORAGES: [(&str, &str); 10] = [
    ("FloatStorage", "float32"),
    ("HalfStorage", "float16"),
    ("BFloat16Storage", "bfloat16"),
    ("ByteStorage", "uint8"),
    ("CharStorage", "int8"),
    ("ShortStorage", "int16"),
    ("IntStorage", "int32"),
    ("LongStorage", "int64"),
    ("DoubleStorage", "float64"),
    ("BoolStorage", "bool"),
];
const DTYPES: [&str; 13] = [
    "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "float64", "bool",
    "uint16", "uint32", "uint64",
];

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTyped),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") => Some(Self::Size),
            ("torch.storage" | "torch", "UntypedStorage") => Some(Self::UntypedStorage),
            ("torch", name) => STORAGES
                .iter()
                .find(|(storage, _)| *storage == name)
                .map(|(_, dtype)| Self::Storage(dtype))
                .or_else(|| DTYPES.iter().find(|dtype| **dtype == name).map(|dtype| Self::Dtype(dtype))),
            _ => None,
        }
    }
}

/// The dtype of torch's name, and the bytes of an element.
fn dtype(name: &str) -> (Dtype, usize) {
    match name {
        "float32" => (Dtype::Float(FloatType::F32), 4),
        "float16" => (Dtype::Float(FloatType::F16), 2),
        "bfloat16" => (Dtype::Float(FloatType::Bf16), 2),
        "uint8" => (Dtype::U8, 1),
        "int32" => (Dtype::I32, 4),
        "uint32" => (Dtype::U32, 4),
        "int64" => (Dtype::I64, 8),
        "int8" | "bool" => (Dtype::Other(name.to_uppercase()), 1),
        "int16" | "uint16" => (Dtype::Other(name.to_uppercase()), 2),
        _ => (Dtype::Other(name.to_uppercase()), 8),
    }
}

/// A value of the machine; larger things stand in its arena.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Dtype(&'static str),
    Object(usize),
    Global(Global),
}

/// A thing that holds others.
#[derive(Debug)]
pub(super) enum Object<'a> {
    /// A tuple or a list.
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Box<Tensor<'a>>),
}

/// The bytes that tensors are views of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Name of its entry in the archive.
    pub key: &'a str,
    dtype: Option<&'static str>,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub storage: Storage<'a>,
    pub dtype: Dtype,
    /// Bytes of an element.
    pub size: usize,
    /// Elements before the first.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Objects<'a>,
    pub root: Value<'a>,
}

impl<'a> Pickle<'a> {
    /// What a value stands for, if it is a thing that holds others.
    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => Some(self.objects.get(id)),
            _ => None,
        }
    }
}

/// Grows by pieces, so that no pickle makes it one large allocation.
#[derive(Debug, Default)]
struct Objects<'a>(Vec<Vec<Object<'a>>>);

impl<'a> Objects<'a> {
    fn push(&mut self, object: Object<'a>) -> usize {
        match self.0.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(object),
            _ => self.0.push(vec![object]),
        }
        self.len() - 1
    }

    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    fn get(&self, id: usize) -> &Object<'a> {
        &self.0[id / CHUNK][id % CHUNK]
    }

    fn get_mut(&mut self, id: usize) -> &mut Object<'a> {
        &mut self.0[id / CHUNK][id % CHUNK]
    }
}

/// Reads a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
    let stack = Vec::with_capacity(MAX_STACK.min(bytes.len()));
    Machine { bytes, stack, ..Machine::default() }.run()
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value<'a>>,
    objects: Objects<'a>,
    /// Objects, values inside them and values remembered.
    things: usize,
}

fn fault_at(at: usize, what: impl std::fmt::Display) -> Error {
    Error::format(format!("pickle, byte {at}: {what}"))
}

impl<'a> Machine<'a> {
    fn fault(&self, what: impl std::fmt::Display) -> Error {
        fault_at(self.at, what)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let part = self.bytes[self.at..].get(..len).ok_or_else(|| self.fault("ends early"))?;
        self.at += len;
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Result<u64> {
        Ok(self.take(N)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn text(&mut self, len: usize) -> Result<&'a str> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|e| self.fault("text that is not UTF-8").with_source(e))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.fault("ends early"))?;
        let line = self.text(len)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() == MAX_STACK {
            return Err(self.fault("more values at once than any checkpoint has"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Counts what is kept.
    fn keep(&mut self, things: usize) -> Result<()> {
        self.things += things;
        if self.things > self.bytes.len() / BYTES_PER_THING + FREE_THINGS {
            return Err(self.fault("more values than so short a pickle can mean"));
        }
        Ok(())
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<()> {
        self.keep(1)?;
        let id = self.objects.push(object);
        self.push(Value::Object(id))
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let empty = self.stack.len() <= floor;
        let value = if empty { None } else { self.stack.pop() };
        value.ok_or_else(|| self.fault("nothing on the stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| self.fault("no mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn list(&self, value: Value<'a>) -> Result<&[Value<'a>]> {
        match value {
            Value::Object(id) => match self.objects.get(id) {
                Object::List(items) => Ok(items),
                _ => Err(self.fault("expected a tuple")),
            },
            _ => Err(self.fault("expected a tuple")),
        }
    }

    fn run(mut self) -> Result<Pickle<'a>> {
        loop {
            let op = self.take(1)?[0];
            match op {
                0x80 => {
                    let version = self.take(1)?[0];
                    if version > 2 {
                        let message = format!("pickle protocol {version}; torch.save writes 2");
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let global = Global::named(module, name).ok_or_else(|| {
                        let message = format!(
                            "the pickle calls {module}.{name}; only tensors, dicts and plain values are read"
                        );
                        Error::new(ErrorKind::Unsupported, message)
                    })?;
                    self.push(match global {
                        Global::Dtype(name) => Value::Dtype(name),
                        other => Value::Global(other),
                    })?;
                }
                b'(' => {
                    if self.marks.len() == MAX_STACK {
                        return Err(self.fault("more marks than any checkpoint has"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => {
                    let value = self.number::<1>()?;
                    self.push(Value::Int(value as i64))?;
                }
                b'M' => {
                    let value = self.number::<2>()?;
                    self.push(Value::Int(value as i64))?;
                }
                b'J' => {
                    let value = self.number::<4>()? as u32 as i32;
                    self.push(Value::Int(value.into()))?;
                }
                0x8a => {
                    let len = self.number::<1>()? as usize;
                    if len > 8 {
                        return Err(self.fault("an integer of more than 64 bits"));
                    }
                    let digits = self.take(len)?;
                    let negative = digits.last().is_some_and(|b| b >> 7 == 1);
                    let fill = if negative { -1 } else { 0 };
                    let value = digits.iter().rev().fold(fill, |value, &byte| value << 8 | i64::from(byte));
                    self.push(Value::Int(value))?;
                }
                b'G' => {
                    // the one big-endian thing
                    let bits = self.number::<8>()?.swap_bytes();
                    self.push(Value::Float(f64::from_bits(bits)))?;
                }
                b'X' => {
                    let len = self.number::<4>()? as usize;
                    let text = self.text(len)?;
                    self.push(Value::Text(text))?;
                }
                b'q' => {
                    let index = self.number::<1>()?;
                    self.remember(index as u32)?;
                }
                b'r' => {
                    let index = self.number::<4>()?;
                    self.remember(index as u32)?;
                }
                b'h' => {
                    let index = self.number::<1>()?;
                    self.recall(index as u32)?;
                }
                b'j' => {
                    let index = self.number::<4>()?;
                    self.recall(index as u32)?;
                }
                b'}' => self.push_object(Object::Dict(Vec::new()))?,
                b']' | b')' => self.push_object(Object::List(Vec::new()))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_object(Object::List(items))?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::with_capacity(3);
                    for _ in 0x84..op {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push_object(Object::List(items))?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.reduce(callable, arguments)?;
                }
                b'b' => {
                    // an OrderedDict's own attributes, which say nothing of tensors
                    self.pop()?;
                    self.dict()?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push_object(Object::Storage(storage))?;
                }
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { objects: self.objects, root });
                }
                other => {
                    let message = format!("pickle, byte {}: opcode {other:#04x}", self.at - 1);
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
            }
        }
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let value = *self.stack.last().ok_or_else(|| self.fault("nothing on the stack"))?;
        if self.memo.insert(index, value).is_none() {
            self.keep(1)?;
        }
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let value = self.memo.get(&index).copied();
        let value = value.ok_or_else(|| self.fault(format_args!("nothing remembered as {index}")))?;
        self.push(value)
    }

    /// The dict on top of the stack.
    fn dict(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>> {
        match self.stack.last() {
            Some(&Value::Object(id)) => match self.objects.get_mut(id) {
                Object::Dict(items) => Ok(items),
                _ => Err(fault_at(self.at, "expected a dict")),
            },
            _ => Err(fault_at(self.at, "expected a dict")),
        }
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.fault("a key without a value"));
        }
        self.keep(pairs.len())?;
        self.dict()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn append(&mut self, items: &[Value<'a>]) -> Result<()> {
        self.keep(items.len())?;
        match self.stack.last() {
            Some(&Value::Object(id)) => match self.objects.get_mut(id) {
                Object::List(list) => {
                    list.extend_from_slice(items);
                    Ok(())
                }
                _ => Err(fault_at(self.at, "expected a list")),
            },
            _ => Err(fault_at(self.at, "expected a list")),
        }
    }

    fn storage(&self, id: Value<'a>) -> Result<Storage<'a>> {
        let fault = || self.fault("expected (\"storage\", type, key, place, length)");
        match self.list(id)? {
            [Value::Text("storage"), Value::Global(class), Value::Text(key), _, Value::Int(_)] => {
                let dtype = match class {
                    Global::Storage(dtype) => Some(*dtype),
                    Global::UntypedStorage => None,
                    _ => return Err(fault()),
                };
                Ok(Storage { key, dtype })
            }
            _ => Err(fault()),
        }
    }

    fn reduce(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<()> {
        let Value::Global(callable) = callable else {
            return Err(self.fault("calls what is no callable"));
        };
        let at = self.at;
        let fault = || fault_at(at, format_args!("wrong arguments for {callable:?}"));
        let list = self.list(arguments)?;
        let mut arguments = [Value::None; MAX_ARGUMENTS];
        let arguments = arguments.get_mut(..list.len()).ok_or_else(fault)?;
        arguments.copy_from_slice(list);
        match (callable, &*arguments) {
            (Global::OrderedDict, []) => self.push_object(Object::Dict(Vec::new())),
            (Global::Size, &[size @ Value::Object(_)]) | (Global::RebuildParameter, &[size, _, _]) => {
                self.push(size)
            }
            (Global::RebuildTensor, &[storage, offset, size, stride, _, _, ..]) => {
                let tensor = self.tensor(storage, None, offset, size, stride).ok_or_else(fault)?;
                self.push_object(Object::Tensor(Box::new(tensor)))
            }
            (Global::RebuildTyped, &[storage, offset, size, stride, _, _, Value::Dtype(dtype), ..]) => {
                let tensor = self.tensor(storage, Some(dtype), offset, size, stride).ok_or_else(fault)?;
                self.push_object(Object::Tensor(Box::new(tensor)))
            }
            _ => Err(fault()),
        }
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        typed: Option<&'static str>,
        offset: Value<'a>,
        size: Value<'a>,
        stride: Value<'a>,
    ) -> Option<Tensor<'a>> {
        let Value::Object(id) = storage else { return None };
        let Object::Storage(storage) = self.objects.get(id) else { return None };
        let whole = |value: &Value<'a>| match value {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let wholes = |list| self.list(list).ok()?.iter().map(whole).collect::<Option<Vec<usize>>>();
        let (shape, strides) = (wholes(size)?, wholes(stride)?);
        let (dtype, size) = dtype(typed.or(storage.dtype)?);
        let offset = whole(&offset)?;
        (shape.len() == strides.len()).then_some(Tensor {
            storage: *storage,
            dtype,
            size,
            offset,
            shape,
            strides,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickle_that_would_run_something_is_refused_by_name() {
        let error = read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("os.system"), "{error}");
    }

    #[test]
    fn plain_values_are_read() {
        let bytes = b"\x80\x02}(X\x01\x00\x00\x00aK\x05X\x01\x00\x00\x00bJ\xff\xff\xff\xffX\x01\x00\x00\x00cG\x3f\xf8\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00d\x8a\x01\x80u.";
        let pickle = read(bytes).unwrap();
        let Some(Object::Dict(items)) = pickle.object(pickle.root) else { panic!("{:?}", pickle.root) };
        let values: Vec<_> = items.iter().map(|(_, value)| format!("{value:?}")).collect();
        assert_eq!(values, ["Int(5)", "Int(-1)", "Float(1.5)", "Int(-128)"]);
    }

    #[test]
    fn ends_and_empty_stacks_are_errors() {
        for bytes in
            [&b""[..], b"\x80", b"\x80\x02", b".", b"s", b"}s.", b"(t", b"u.", b"h\x01.", b"cos", b"R."]
        {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}

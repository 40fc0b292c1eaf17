use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};

use bonsai_core::{Error, ErrorKind, ModelSource};

use crate::guard::{Access, Failure, Outcome, call_out, status};
use crate::host::UserData;
use crate::options::expect_zero;
use crate::structs::{self, Versioned};
use crate::{bonsai_status, handle, text};

/// Fills `buffer` with the `length` bytes of a file from `offset` on; 0 when all of them are there. Called only while
/// bonsai_pipeline_open_reader runs, on its thread.
pub type bonsai_read_at_fn = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        name: *const c_char,
        offset: u64,
        buffer: *mut c_void,
        length: usize,
    ) -> i32,
>;

/// A file of a model that the host keeps.
#[repr(C)]
pub struct bonsai_model_file {
    /// Its size in bytes.
    pub size: u64,
    /// Its name relative to the model, as "transformer/config.json", with a zero byte at its end.
    pub name: *const c_char,
}

/// A model that lies in no directory: in a pack of game assets, in memory, behind a cache. Fill it with
/// bonsai_model_reader_init.
#[repr(C)]
pub struct bonsai_model_reader {
    /// Size of this struct in bytes.
    pub struct_size: u32,
    /// 0.
    pub reserved_flags: u32,
    /// What the model is called in metadata, with a zero byte at its end; NULL: "model".
    pub name: *const c_char,
    /// All its files.
    pub files: *const bonsai_model_file,
    /// Their number.
    pub file_count: usize,
    /// Reads them.
    pub read_at: bonsai_read_at_fn,
    /// Handed to read_at.
    pub user_data: *mut c_void,
}

// SAFETY: `repr(C)`, no padding, all fields integers and nullable pointers.
unsafe impl Versioned for bonsai_model_reader {
    const NAME: &'static str = "bonsai_model_reader";

    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            reserved_flags: 0,
            name: std::ptr::null(),
            files: std::ptr::null(),
            file_count: 0,
            read_at: None,
            user_data: std::ptr::null_mut(),
        }
    }
}

/// Fills a reader with nothing. `struct_size` is sizeof(bonsai_model_reader).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bonsai_model_reader_init(
    reader: *mut bonsai_model_reader,
    struct_size: usize,
) -> bonsai_status {
    // SAFETY: null or writable for its size (the crate's contract); there is no error place.
    unsafe {
        status("bonsai_model_reader_init", Access::Getter, std::ptr::null_mut(), || {
            structs::init(reader, struct_size, "reader")
        })
    }
}

/// The most files of a model; more are a mistake.
const MAX_FILES: usize = 100_000;

pub(crate) struct Reader {
    name: String,
    names: Vec<String>,
    files: BTreeMap<String, (CString, u64)>,
    read_at: unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut c_void, usize) -> i32,
    user_data: UserData,
}

impl bonsai_model_reader {
    /// # Safety
    /// The names and files are what the fields say.
    pub(crate) unsafe fn to_core(&self) -> Outcome<Reader> {
        expect_zero("reader.reserved_flags", self.reserved_flags)?;
        let read_at =
            self.read_at.ok_or_else(|| Failure::new(ErrorKind::NullArgument, "reader.read_at is NULL"))?;
        if self.file_count > MAX_FILES {
            let found = self.file_count;
            return Err(Failure::invalid(format!("reader.file_count {found}: expected at most {MAX_FILES}")));
        }
        let name = if self.name.is_null() {
            "model"
        } else {
            // SAFETY: ends with a zero (contract).
            unsafe { text::text(self.name, usize::MAX, "reader.name") }?
        };
        // SAFETY: as many as there should be (contract).
        let listed = unsafe { handle::elements(self.files, self.file_count, "reader.files") }?;
        let mut files = BTreeMap::new();
        for (index, file) in listed.iter().enumerate() {
            // SAFETY: ends with a zero (contract).
            let name = unsafe { text::text(file.name, usize::MAX, "reader.files[].name") }?;
            let for_host = CString::new(name).unwrap_or_default();
            if files.insert(name.to_owned(), (for_host, file.size)).is_some() {
                return Err(Failure::invalid(format!("reader.files[{index}]: {name:?} is there twice")));
            }
        }
        let names = files.keys().cloned().collect();
        Ok(Reader { name: name.to_owned(), names, files, read_at, user_data: UserData(self.user_data) })
    }
}

impl ModelSource for Reader {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> &[String] {
        &self.names
    }

    fn len(&self, name: &str) -> Option<u64> {
        self.files.get(name).map(|(_, size)| *size)
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let (for_host, size) =
            self.files.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file"))?;
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > *size) {
            return Err(Error::new(ErrorKind::Internal, "read beyond the end"));
        }
        let into = buffer.as_mut_ptr().cast();
        // SAFETY: the host's function, with a name that lives during the call and a buffer of this length.
        let answer = call_out(|| unsafe {
            (self.read_at)(self.user_data.0, for_host.as_ptr(), offset, into, buffer.len())
        });
        if answer == 0 {
            return Ok(());
        }
        let length = buffer.len();
        let message = format!("read_at returned {answer} for {length} bytes from {offset} on");
        Err(Error::new(ErrorKind::Io, message).at_byte(offset))
    }
}

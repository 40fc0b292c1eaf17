"""A picture with nothing but ctypes. usage: text_to_image.py LIBRARY MODEL PROMPT OUTPUT.png [SEED]"""
import ctypes as c
import sys


class Request(c.Structure):
    """bonsai_request of bonsai.h, field by field."""
    _fields_ = [("struct_size", c.c_uint32), ("reserved_flags", c.c_uint32), ("seed", c.c_uint64),
                ("width", c.c_uint32), ("height", c.c_uint32), ("steps", c.c_uint32), ("image_count", c.c_uint32),
                ("noise_source", c.c_int32), ("guidance", c.c_float), ("max_sequence_length", c.c_uint32),
                ("timeout_ms", c.c_uint32), ("vae_tiling", c.c_uint8), ("keep_float", c.c_uint8),
                ("reserved", c.c_uint8 * 6), ("prompt", c.c_char_p), ("prompt_length", c.c_size_t),
                ("sigmas", c.POINTER(c.c_float)), ("sigma_count", c.c_size_t)]


library, model, prompt, output = sys.argv[1:5]
bonsai = c.CDLL(library)
bonsai.bonsai_error_message.restype = c.c_char_p
whole = c.c_size_t(-1)  # the text ends with a zero byte


def call(function, *arguments):
    """Calls a function whose last parameter is an error, and raises that."""
    error = c.c_void_p()
    if getattr(bonsai, function)(*arguments, c.byref(error)) != 0:
        raise RuntimeError(bonsai.bonsai_error_message(error).decode())


pipeline, result, request, length = c.c_void_p(), c.c_void_p(), Request(), c.c_size_t()
call("bonsai_pipeline_open", model.encode(), whole, None, c.byref(pipeline))
bonsai.bonsai_request_init(c.byref(request), c.c_size_t(c.sizeof(request)))
request.prompt, request.seed = prompt.encode(), int(sys.argv[5]) if len(sys.argv) > 5 else 0
call("bonsai_generate", pipeline, c.byref(request), None, None, c.byref(result))
call("bonsai_result_encode_png", result, c.c_size_t(0), 0, None, c.c_size_t(0), c.byref(length))
png = c.create_string_buffer(length.value)
call("bonsai_result_encode_png", result, c.c_size_t(0), 0, png, length, c.byref(length))
open(output, "wb").write(png.raw)
bonsai.bonsai_result_free(result)
bonsai.bonsai_pipeline_free(pipeline)

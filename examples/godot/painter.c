/* A Godot 4 extension in C: the class BonsaiPainter with one static function,
 *     paint(model: String, prompt: String, width: int, height: int, steps: int, seed: int) -> PackedByteArray
 * which returns the pixels as RGBA8, or nothing when it failed (the reason goes to Godot's log). It blocks: call it from a
 * Thread. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bonsai.h"
#include "gdextension_interface.h"

/* Sizes of Godot's own types on 64-bit systems. */
typedef struct {
    void *opaque;
} Name; /* StringName and String */
typedef struct {
    void *opaque[2];
} Bytes; /* PackedByteArray */

enum { ARGUMENTS = 6 };

static GDExtensionInterfaceGetProcAddress find;
static GDExtensionClassLibraryPtr library;
static GDExtensionTypeFromVariantConstructorFunc to_string, to_int;
static GDExtensionVariantFromTypeConstructorFunc from_bytes;
static GDExtensionPtrConstructor new_bytes;
static GDExtensionPtrDestructor free_bytes, free_string, free_name;
static GDExtensionPtrBuiltInMethod resize_bytes;
static GDExtensionInterfaceStringToUtf8Chars utf8_of;
static GDExtensionInterfacePackedByteArrayOperatorIndex byte_at;
static GDExtensionInterfacePrintError print_error;

static Name name(const char *text) {
    Name made = {NULL};
    ((GDExtensionInterfaceStringNameNewWithLatin1Chars)find("string_name_new_with_latin1_chars"))(&made, text, 0);
    return made;
}

/* A string of Godot's as UTF-8; the caller frees it. */
static char *utf8(const void *string) {
    const GDExtensionInt length = utf8_of(string, NULL, 0);
    char *text = malloc((size_t)length + 1);
    if (text != NULL) {
        utf8_of(string, text, length);
        text[length] = 0;
    }
    return text;
}

static void complain(const char *what, bonsai_status status, bonsai_error *error) {
    char text[1024];
    snprintf(text, sizeof text, "%s: %s", what,
             error != NULL ? bonsai_error_message(error) : bonsai_status_name(status));
    print_error(text, "paint", __FILE__, __LINE__, 0);
    bonsai_error_free(error);
}

/* Puts the picture into `bytes`, which is empty. */
static void copy_picture(const bonsai_result *result, Bytes *bytes) {
    bonsai_error *error = NULL;
    size_t length = 0;
    bonsai_status status =
        bonsai_result_image_copy(result, 0, BONSAI_FORMAT_RGBA8, NULL, 0, 0, &length, &error);
    if (status == BONSAI_OK) {
        int64_t size = (int64_t)length, code = 0;
        GDExtensionConstTypePtr arguments[1];
        arguments[0] = &size;
        resize_bytes(bytes, arguments, &code, 1);
        status = bonsai_result_image_copy(result, 0, BONSAI_FORMAT_RGBA8, byte_at(bytes, 0), length, 0, &length, &error);
    }
    if (status != BONSAI_OK) {
        complain("picture", status, error);
    }
}

static void paint(const void *model_string, const void *prompt_string, const int64_t *numbers, Bytes *bytes) {
    char *model = utf8(model_string), *prompt = utf8(prompt_string);
    bonsai_pipeline *pipeline = NULL;
    bonsai_result *result = NULL;
    bonsai_error *error = NULL;
    bonsai_status status = BONSAI_E_OUT_OF_MEMORY;
    if (model != NULL && prompt != NULL) {
        status = bonsai_pipeline_open(model, BONSAI_NUL_TERMINATED, NULL, &pipeline, &error);
    }
    if (status == BONSAI_OK) {
        bonsai_request request;
        bonsai_request_init(&request, sizeof request);
        request.prompt = prompt;
        request.width = (uint32_t)numbers[0];
        request.height = (uint32_t)numbers[1];
        request.steps = (uint32_t)numbers[2];
        request.seed = (uint64_t)numbers[3];
        status = bonsai_generate(pipeline, &request, NULL, NULL, &result, &error);
    }
    if (status == BONSAI_OK) {
        copy_picture(result, bytes);
    } else {
        complain("paint", status, error);
    }
    bonsai_result_free(result);
    bonsai_pipeline_free(pipeline);
    free(model);
    free(prompt);
}

static void call(void *user, GDExtensionClassInstancePtr self, const GDExtensionConstVariantPtr *arguments,
                 GDExtensionInt count, GDExtensionVariantPtr returned, GDExtensionCallError *error) {
    static const GDExtensionVariantType types[ARGUMENTS] = {
        GDEXTENSION_VARIANT_TYPE_STRING, GDEXTENSION_VARIANT_TYPE_STRING, GDEXTENSION_VARIANT_TYPE_INT,
        GDEXTENSION_VARIANT_TYPE_INT,    GDEXTENSION_VARIANT_TYPE_INT,    GDEXTENSION_VARIANT_TYPE_INT};
    GDExtensionInterfaceVariantGetType type_of = (GDExtensionInterfaceVariantGetType)find("variant_get_type");
    Name model, prompt;
    Bytes bytes;
    int64_t numbers[4];
    int i;
    (void)user, (void)self;
    if (count != ARGUMENTS) {
        error->error = count < ARGUMENTS ? GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS : GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS;
        error->expected = ARGUMENTS;
        return;
    }
    for (i = 0; i < ARGUMENTS; i++) {
        if (type_of(arguments[i]) != types[i]) {
            error->error = GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT;
            error->argument = i;
            error->expected = (int32_t)types[i];
            return;
        }
    }
    to_string(&model, (GDExtensionVariantPtr)arguments[0]);
    to_string(&prompt, (GDExtensionVariantPtr)arguments[1]);
    for (i = 0; i < 4; i++) {
        to_int(&numbers[i], (GDExtensionVariantPtr)arguments[2 + i]);
    }
    new_bytes(&bytes, NULL);
    paint(&model, &prompt, numbers, &bytes);
    from_bytes(returned, &bytes);
    free_bytes(&bytes);
    free_string(&model);
    free_string(&prompt);
    error->error = GDEXTENSION_CALL_OK;
}

static void ptrcall(void *user, GDExtensionClassInstancePtr self, const GDExtensionConstTypePtr *arguments,
                    GDExtensionTypePtr returned) {
    int64_t numbers[4];
    int i;
    (void)user, (void)self;
    for (i = 0; i < 4; i++) {
        numbers[i] = *(const int64_t *)arguments[2 + i];
    }
    paint(arguments[0], arguments[1], numbers, returned);
}

static void look_up(void) {
    Name resize = name("resize");
    to_string = ((GDExtensionInterfaceGetVariantToTypeConstructor)find("get_variant_to_type_constructor"))(
        GDEXTENSION_VARIANT_TYPE_STRING);
    to_int = ((GDExtensionInterfaceGetVariantToTypeConstructor)find("get_variant_to_type_constructor"))(
        GDEXTENSION_VARIANT_TYPE_INT);
    from_bytes = ((GDExtensionInterfaceGetVariantFromTypeConstructor)find("get_variant_from_type_constructor"))(
        GDEXTENSION_VARIANT_TYPE_PACKED_BYTE_ARRAY);
    new_bytes = ((GDExtensionInterfaceVariantGetPtrConstructor)find("variant_get_ptr_constructor"))(
        GDEXTENSION_VARIANT_TYPE_PACKED_BYTE_ARRAY, 0);
    free_bytes = ((GDExtensionInterfaceVariantGetPtrDestructor)find("variant_get_ptr_destructor"))(
        GDEXTENSION_VARIANT_TYPE_PACKED_BYTE_ARRAY);
    free_string = ((GDExtensionInterfaceVariantGetPtrDestructor)find("variant_get_ptr_destructor"))(
        GDEXTENSION_VARIANT_TYPE_STRING);
    free_name = ((GDExtensionInterfaceVariantGetPtrDestructor)find("variant_get_ptr_destructor"))(
        GDEXTENSION_VARIANT_TYPE_STRING_NAME);
    /* the number stands for the signature of PackedByteArray.resize in extension_api.json */
    resize_bytes = ((GDExtensionInterfaceVariantGetPtrBuiltinMethod)find("variant_get_ptr_builtin_method"))(
        GDEXTENSION_VARIANT_TYPE_PACKED_BYTE_ARRAY, &resize, 848867239);
    utf8_of = (GDExtensionInterfaceStringToUtf8Chars)find("string_to_utf8_chars");
    byte_at = (GDExtensionInterfacePackedByteArrayOperatorIndex)find("packed_byte_array_operator_index");
    print_error = (GDExtensionInterfacePrintError)find("print_error");
    free_name(&resize);
}

static void initialize(void *user, GDExtensionInitializationLevel level) {
    static const char *const names[ARGUMENTS] = {"model", "prompt", "width", "height", "steps", "seed"};
    Name class_name, parent, method, none, argument_names[ARGUMENTS], hint = {NULL};
    GDExtensionClassCreationInfo4 info;
    GDExtensionPropertyInfo arguments[ARGUMENTS], returned;
    GDExtensionClassMethodArgumentMetadata metadata[ARGUMENTS];
    GDExtensionClassMethodInfo painted;
    int i;
    (void)user;
    if (level != GDEXTENSION_INITIALIZATION_SCENE) {
        return;
    }
    look_up();
    class_name = name("BonsaiPainter"), parent = name("Object"), method = name("paint"), none = name("");
    ((GDExtensionInterfaceStringNewWithLatin1Chars)find("string_new_with_latin1_chars"))(&hint, "");
    memset(&info, 0, sizeof info);
    info.is_abstract = 1, info.is_exposed = 1;
    ((GDExtensionInterfaceClassdbRegisterExtensionClass4)find("classdb_register_extension_class4"))(
        library, &class_name, &parent, &info);

    memset(&returned, 0, sizeof returned);
    returned.name = &none, returned.class_name = &none, returned.hint_string = &hint;
    returned.usage = 6; /* stored and shown */
    for (i = 0; i < ARGUMENTS; i++) {
        argument_names[i] = name(names[i]);
        arguments[i] = returned;
        arguments[i].name = &argument_names[i];
        arguments[i].type = i < 2 ? GDEXTENSION_VARIANT_TYPE_STRING : GDEXTENSION_VARIANT_TYPE_INT;
        metadata[i] = GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE;
    }
    returned.type = GDEXTENSION_VARIANT_TYPE_PACKED_BYTE_ARRAY;
    memset(&painted, 0, sizeof painted);
    painted.name = &method, painted.call_func = call, painted.ptrcall_func = ptrcall;
    painted.method_flags = GDEXTENSION_METHOD_FLAG_NORMAL | GDEXTENSION_METHOD_FLAG_STATIC;
    painted.has_return_value = 1, painted.return_value_info = &returned;
    painted.argument_count = ARGUMENTS, painted.arguments_info = arguments, painted.arguments_metadata = metadata;
    ((GDExtensionInterfaceClassdbRegisterExtensionClassMethod)find("classdb_register_extension_class_method"))(
        library, &class_name, &painted);

    for (i = 0; i < ARGUMENTS; i++) {
        free_name(&argument_names[i]);
    }
    free_string(&hint);
    free_name(&class_name), free_name(&parent), free_name(&method), free_name(&none);
}

static void deinitialize(void *user, GDExtensionInitializationLevel level) {
    Name class_name;
    (void)user;
    if (level == GDEXTENSION_INITIALIZATION_SCENE) {
        class_name = name("BonsaiPainter");
        ((GDExtensionInterfaceClassdbUnregisterExtensionClass)find("classdb_unregister_extension_class"))(library, &class_name);
        free_name(&class_name);
    }
}

GDExtensionBool bonsai_painter_init(GDExtensionInterfaceGetProcAddress address, GDExtensionClassLibraryPtr own,
                                    GDExtensionInitialization *initialization) {
    find = address, library = own;
    initialization->minimum_initialization_level = GDEXTENSION_INITIALIZATION_SCENE;
    initialization->initialize = initialize;
    initialization->deinitialize = deinitialize;
    return 1;
}

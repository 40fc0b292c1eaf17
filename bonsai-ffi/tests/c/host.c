/* The host's own files, memory and threads: the same picture, byte for byte, and every buffer given back.
 * usage: host MODEL WANTED.png FILE... with the names of the model's files */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <dirent.h>
#include <pthread.h>

struct host {
    const char *model;
    pthread_mutex_t lock;
    long taken, returned, reads, tasks;
};

static int32_t read_at(void *user, const char *name, uint64_t offset, void *buffer, size_t length) {
    struct host *host = user;
    char path[4096];
    size_t got;
    FILE *file;
    host->reads++;
    snprintf(path, sizeof path, "%s/%s", host->model, name);
    file = fopen(path, "rb");
    if (file == NULL || fseek(file, (long)offset, SEEK_SET) != 0) {
        return -1;
    }
    got = fread(buffer, 1, length, file);
    fclose(file);
    return got == length ? 0 : -1;
}

static void count(struct host *host, long *counter) {
    pthread_mutex_lock(&host->lock);
    ++*counter;
    pthread_mutex_unlock(&host->lock);
}

static void *take(void *user, size_t size, size_t alignment) {
    struct host *host = user;
    void *memory = NULL;
    CHECK(size > 0 && alignment > 0 && (alignment & (alignment - 1)) == 0);
    if (posix_memalign(&memory, alignment, size) != 0) {
        return NULL;
    }
    memset(memory, 0xee, size); /* whatever was there before */
    count(host, &host->taken);
    return memory;
}

static void give_back(void *user, void *pointer, size_t size, size_t alignment) {
    struct host *host = user;
    CHECK(pointer != NULL && size > 0 && alignment > 0);
    free(pointer);
    count(host, &host->returned);
}

struct task {
    void (*body)(void *context, size_t index);
    void *context;
    size_t index;
};

static void *run_task(void *argument) {
    const struct task *task = argument;
    task->body(task->context, task->index);
    return NULL;
}

static void parallel_for(void *user, size_t n, void (*body)(void *context, size_t index), void *context) {
    struct host *host = user;
    pthread_t threads[8];
    struct task tasks[8];
    size_t i;
    CHECK(n <= 8);
    count(host, &host->tasks);
    for (i = 1; i < n; i++) {
        tasks[i].body = body, tasks[i].context = context, tasks[i].index = i;
        CHECK(pthread_create(&threads[i], NULL, run_task, &tasks[i]) == 0);
    }
    body(context, 0);
    for (i = 1; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* Threads of this process; 1 where the system does not say. */
static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *task;
    if (tasks == NULL) {
        return 1;
    }
    while ((task = readdir(tasks)) != NULL) {
        count += task->d_name[0] != '.';
    }
    closedir(tasks);
    return count;
}

int main(int argc, char **argv) {
    struct host host;
    bonsai_model_reader reader;
    bonsai_options options;
    bonsai_pipeline *pipeline = NULL;
    bonsai_request request = small_request();
    bonsai_result *result = NULL;
    bonsai_model_file *files;
    unsigned char *png, *wanted;
    size_t length = 0;
    FILE *file;
    int i;

    CHECK(argc > 3);
    memset(&host, 0, sizeof host);
    host.model = argv[1];
    CHECK(pthread_mutex_init(&host.lock, NULL) == 0);
    files = calloc((size_t)argc - 3, sizeof *files);
    CHECK(files != NULL);
    for (i = 3; i < argc; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], argv[i]);
        file = fopen(path, "rb");
        CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
        files[i - 3].name = argv[i];
        files[i - 3].size = (uint64_t)ftell(file);
        fclose(file);
    }
    EXPECT(BONSAI_OK, bonsai_model_reader_init(&reader, sizeof reader));
    reader.files = files, reader.file_count = (size_t)argc - 3;
    reader.read_at = read_at, reader.user_data = &host;
    EXPECT(BONSAI_OK, bonsai_options_init(&options, sizeof options));
    options.alloc = take, options.dealloc = give_back, options.alloc_user_data = &host;
    options.parallel_for = parallel_for, options.parallel_threads = 3, options.parallel_user_data = &host;
    OK(bonsai_pipeline_open_reader(&reader, &options, &pipeline, &error));
    free(files); /* whatever is needed of it was copied */
    CHECK(host.reads > 5 && host.taken > 0);
    host.reads = 0;
    OK(bonsai_generate(pipeline, &request, NULL, NULL, &result, &error));
    CHECK(host.reads == 0 && host.tasks > 0);
    /* the library has started none of its own */
    CHECK(threads() == 1);

    png = png_of(result, 0, &length);
    wanted = malloc(length + 1);
    file = fopen(argv[2], "rb");
    CHECK(wanted != NULL && file != NULL);
    CHECK(fread(wanted, 1, length + 1, file) == length && memcmp(png, wanted, length) == 0);
    fclose(file);
    free(wanted);
    free(png);
    bonsai_pipeline_free(pipeline);
    bonsai_result_free(result);
    CHECK(host.taken == host.returned);
    pthread_mutex_destroy(&host.lock);
    printf("host: the same bytes; %ld buffers taken and given back, %ld times in parallel\n", host.taken, host.tasks);
    return 0;
}

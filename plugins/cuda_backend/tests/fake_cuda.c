/* A driver library of which the environment says what it finds. Built by conftest.py as libcuda.so.1. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int set(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int contexts = 0; /* retained and not released */

int cuInit(unsigned flags) { return flags ? 1 : set("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { return *version = set("FAKE_VERSION", 13000), 0; }
int cuDeviceGetCount(int *count) { return *count = set("FAKE_COUNT", 2), 0; }
int cuDeviceGet(int *device, int index) { return *device = 70 + index, 0; }

int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 70 ? "Fake H100" : "Fake A100", size);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 76 ? 0 : device == 70 ? 9 : 8;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)(0x100000000 + device); /* longer than an int */
    return contexts++, set("FAKE_CONTEXT", 0);
}

int cuDevicePrimaryCtxRelease_v2(int device) { return --contexts < 0 || device < 70; }
int cuCtxSetCurrent(void *context) { return (size_t)context < 0x100000000; }

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = (size_t)80 << 30;
    *free_bytes = (size_t)set("FAKE_FREE_MIB", 70000) << 20;
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 999 ? "unknown error" : code == 46 ? "all devices are busy" : NULL;
    return *text == NULL;
}
